use ringfence_policy::{CompiledPod, ObjectKey, Version};

use super::*;

const NODE: &str = "0f3c";

fn compiled(pods: &[&str]) -> Compiled {
    let pod = |number: usize, namespace: &&str| {
        let key = ObjectKey::new(*namespace, number.to_string());
        let pod = CompiledPod {
            addresses: Vec::new(),
            ingress: (number == 0).then(|| "x".to_owned()),
            egress: None,
        };
        (key, pod)
    };
    Compiled {
        pods: pods.iter().enumerate().map(|(n, name)| pod(n, name)).collect(),
        ..Compiled::default()
    }
}

fn version(generation: i64) -> Version {
    Version {
        uid: "u".to_owned(),
        generation,
    }
}

struct Node {
    compiled: Compiled,
    versions: Versions,
    ruleset: Ruleset,
}

impl Node {
    /// A node with two pods of one namespace and one of another, and a policy in the first and in a third.
    fn new() -> Self {
        let mut versions = Versions::default();
        versions.own_node(Some(NODE.to_owned()));
        versions.policy(ObjectKey::new("a", "p"), version(1));
        versions.policy(ObjectKey::new("elsewhere", "p"), version(1));
        Self {
            compiled: compiled(&["a", "a", "b"]),
            versions,
            ruleset: Ruleset::default(),
        }
    }

    fn state(&self) -> State<'_> {
        State {
            compiled: &self.compiled,
            versions: &self.versions,
            ruleset: &self.ruleset,
            policies: 2,
        }
    }
}

fn book() -> Book {
    Book::new("iptables-nft".to_owned(), vec!["IPv4".to_owned()])
}

fn told(book: &mut Book) -> NodeEnforcementStatus {
    book.status(Instant::now()).unwrap_or_default()
}

#[test]
fn a_report_has_the_digest_of_each_namespace_with_pods_here() {
    let (mut book, node) = (book(), Node::new());
    book.synced(&node.state(), Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
    let status = told(&mut book);
    assert_eq!((status.pods, status.isolated_pods), (3, 1));
    let names = status
        .namespaces
        .iter()
        .map(|it| (it.name.as_str(), it.policies, it.pods));
    assert_eq!(names.collect::<Vec<_>>(), [("a", 1, 2), ("b", 0, 1)]);
    let wanted = ringfence_policy::applied_digest([("p", &version(1))]);
    assert_eq!(status.namespaces[0].digest, wanted);
    assert_eq!(status.last_sync_time, Some(Time(Timestamp::UNIX_EPOCH)));
}

#[test]
fn what_could_not_be_written_is_named_and_the_digest_stays_what_the_kernel_holds() {
    let (mut book, mut node) = (book(), Node::new());
    book.synced(&node.state(), Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
    let before = told(&mut book).namespaces;
    node.versions.policy(ObjectKey::new("a", "p"), version(2));
    book.failed(&node.state(), "LockHeld", "busy", Timestamp::UNIX_EPOCH);
    let later = Timestamp::UNIX_EPOCH + std::time::Duration::from_secs(9);
    book.failed(&node.state(), "LockHeld", "busy", later);
    let status = told(&mut book);
    assert_eq!(status.namespaces, before);
    assert_eq!(status.not_applied_count, 1);
    assert_eq!(status.not_applied[0].namespace, "a");
    assert_eq!(status.not_applied[0].reason, "NotWritten");
    // The error is as old as its first time.
    let error = status.last_error.map(|error| (error.name, error.time));
    assert_eq!(error, Some(("LockHeld".to_owned(), Time(Timestamp::UNIX_EPOCH))));

    book.synced(&node.state(), later, later);
    let status = told(&mut book);
    assert_ne!(status.namespaces, before);
    assert_eq!((status.not_applied_count, status.last_error), (0, None));
}

#[test]
fn a_policy_that_cannot_be_read_is_named_and_not_part_of_the_digest() {
    let (mut book, mut node) = (book(), Node::new());
    node.versions.unreadable(ObjectKey::new("a", "p"));
    node.versions.unreadable(ObjectKey::new("elsewhere", "p"));
    book.synced(&node.state(), Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
    let status = told(&mut book);
    assert_eq!(status.namespaces[0].policies, 0);
    let named: Vec<_> = status
        .not_applied
        .iter()
        .map(|it| (it.namespace.as_str(), it.policy.as_deref(), it.reason.as_str()))
        .collect();
    assert_eq!(named, [("a", Some("p"), "Unreadable")]);
}

/// Policies on trial are in no kernel: what was written when says nothing about them.
#[test]
fn findings_count_from_when_policies_on_trial_came_not_from_the_last_write() {
    let (mut book, mut node) = (book(), Node::new());
    node.versions.audit(ObjectKey::new("a", "trial"), version(1));
    let later = Timestamp::UNIX_EPOCH + std::time::Duration::from_secs(9);
    book.synced(&node.state(), Timestamp::UNIX_EPOCH, later);
    let status = told(&mut book);
    let audit = status.namespaces[0].audit.as_ref();
    assert_eq!(audit.map(|audit| audit.since.0), Some(later));
    assert_eq!(status.last_sync_time, Some(Time(Timestamp::UNIX_EPOCH)));
}

#[test]
fn a_report_is_bounded_and_says_what_it_leaves_out() {
    let (mut book, mut node) = (book(), Node::new());
    for number in 0..500 {
        node.versions
            .unreadable(ObjectKey::new("a", format!("p-{number}")));
    }
    book.synced(&node.state(), Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
    let error = "é".repeat(5000);
    book.failed(&node.state(), "ToolFailed", &error, Timestamp::UNIX_EPOCH);
    let status = told(&mut book);
    assert_eq!(
        (status.not_applied.len(), status.not_applied_count),
        (MOST_NOT_APPLIED, 500)
    );
    assert!(status.last_error.is_some_and(|error| error.message.len() <= 1024));
}

#[test]
fn nothing_is_told_before_the_node_is_known() {
    let (mut book, mut node) = (book(), Node::new());
    node.versions.own_node(None);
    book.synced(&node.state(), Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
    assert_eq!(book.status(Instant::now()), None);
}
