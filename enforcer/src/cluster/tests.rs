//! News in every order, and what is made of them.

use ringfence_policy::{Namespace, Node, Peer, Policy, Rule, Selector};

use super::*;

fn namespace(name: &str) -> Update {
    Update::Upsert(Object::Namespace(Namespace {
        name: name.to_owned(),
        labels: [].into(),
    }))
}

fn names(cluster: &Cluster) -> Vec<&str> {
    let known = &cluster.known[Kind::Namespace as usize];
    known.iter().map(|key| key.name.as_str()).collect()
}

fn pod(name: &str, node: &str, address: &str) -> Pod {
    Pod {
        key: ObjectKey::new("n", name),
        uid: name.to_owned(),
        labels: [].into(),
        node: Some(node.to_owned()),
        addresses: address.parse().into_iter().collect(),
        host_network: false,
        finished: false,
        terminating: false,
        ports: Vec::new(),
        service_account: "default".to_owned(),
    }
}

/// A cluster with a pod on the node, and what isolates it for ingress.
fn with_pod() -> Cluster {
    let mut cluster = Cluster::new("here");
    assert!(cluster.apply(Update::Upsert(Object::Pod(pod("pod", "here", "10.0.0.1")))));
    cluster
}

fn grants(cluster: &Cluster) -> Option<usize> {
    let policies = cluster.policies();
    let isolation = policies.pods[&ObjectKey::new("n", "pod")].ingress.as_ref()?;
    Some(isolation.grants.len())
}

#[test]
fn a_kind_is_missing_until_its_first_list_is_complete() {
    let mut cluster = Cluster::new("here");
    cluster.apply(Update::Begin(Kind::Namespace));
    cluster.apply(namespace("a"));
    assert_eq!(cluster.missing(), Kind::NEEDED);
    assert!(cluster.apply(Update::End(Kind::Namespace)));
    assert_eq!(cluster.missing(), [Kind::Pod, Kind::Node, Kind::Policy]);
}

#[test]
fn a_second_list_removes_what_it_does_not_name_and_only_when_it_is_complete() {
    let mut cluster = Cluster::new("here");
    let list = |names: &[&str]| {
        let objects = names.iter().map(|name| namespace(name));
        [Update::Begin(Kind::Namespace)]
            .into_iter()
            .chain(objects)
            .collect::<Vec<_>>()
    };
    for update in list(&["a", "b"]) {
        cluster.apply(update);
    }
    cluster.apply(Update::End(Kind::Namespace));
    for update in list(&["b"]) {
        cluster.apply(update);
    }
    assert_eq!(
        names(&cluster),
        ["a", "b"],
        "half a list says nothing about what is gone"
    );
    cluster.apply(Update::End(Kind::Namespace));
    assert_eq!(names(&cluster), ["b"]);
}

/// A policy that cannot be read, as the watch tells of it: what stands for it allows nothing.
fn unreadable(name: &str) -> Update {
    Update::Unreadable(Object::Policy(policy(name, Vec::new())))
}

fn policy(name: &str, ingress: Vec<Rule>) -> Policy {
    Policy {
        key: ObjectKey::new("n", name),
        uid: String::new(),
        pod_selector: Selector::everything(),
        ingress: Some(ingress),
        egress: None,
    }
}

#[test]
fn an_object_that_cannot_be_read_stays_what_it_was() {
    let anyone = Rule {
        peers: None,
        ports: None,
    };
    let mut cluster = with_pod();
    assert!(cluster.apply(Update::Upsert(Object::Policy(policy("a", vec![anyone])))));
    cluster.apply(Update::Begin(Kind::Policy));
    assert!(!cluster.apply(unreadable("a")));
    cluster.apply(Update::End(Kind::Policy));
    assert_eq!(grants(&cluster), Some(1));
}

#[test]
fn an_object_that_was_never_readable_closes() {
    let mut cluster = with_pod();
    assert_eq!(grants(&cluster), None);
    assert!(cluster.apply(unreadable("a")));
    assert_eq!(grants(&cluster), Some(0));
    assert!(cluster.apply(Update::Remove(Kind::Policy, ObjectKey::new("n", "a"))));
    assert_eq!(grants(&cluster), None);
}

#[test]
fn what_happens_elsewhere_matters_only_where_a_policy_of_this_node_names_it() {
    let mut cluster = with_pod();
    let elsewhere = || Update::Upsert(Object::Pod(pod("peer", "there", "10.0.0.2")));
    assert!(!cluster.apply(elsewhere()), "nobody names it");
    cluster.apply(Update::Remove(Kind::Pod, ObjectKey::new("n", "peer")));
    let own_pods = Rule {
        peers: Some(vec![Peer::Pods {
            namespaces: None,
            pods: Some(Selector::everything()),
        }]),
        ports: None,
    };
    cluster.apply(Update::Upsert(Object::Policy(policy("a", vec![own_pods]))));
    assert!(cluster.apply(elsewhere()), "a policy names it");
    assert_eq!(cluster.count(Kind::Pod), 2);
}

#[test]
fn only_this_nodes_addresses_count() {
    let node = |name: &str, address: &str| {
        Update::Upsert(Object::Node(Node {
            name: name.to_owned(),
            addresses: address.parse().into_iter().collect(),
        }))
    };
    let mut cluster = Cluster::new("here");
    assert!(!cluster.apply(node("there", "172.30.0.4")));
    assert!(cluster.apply(node("here", "172.30.0.3")));
    assert!(!cluster.apply(node("here", "172.30.0.3")));
    assert_eq!(cluster.addresses().len(), 1);
    assert!(cluster.apply(Update::Remove(Kind::Node, ObjectKey::new("", "here"))));
}

#[test]
fn only_this_nodes_pod_ranges_count_and_they_outlive_its_object() {
    let ranges =
        |node: &str, range: &str| Update::PodRanges(node.to_owned(), range.parse().into_iter().collect());
    let mut cluster = Cluster::new("here");
    assert!(!cluster.apply(ranges("there", "10.244.2.0/24")));
    assert!(cluster.apply(ranges("here", "10.244.1.0/24")));
    assert!(!cluster.apply(ranges("here", "10.244.1.0/24")));
    cluster.apply(Update::Remove(Kind::Node, ObjectKey::new("", "here")));
    assert_eq!(cluster.pod_ranges().len(), 1);
}

#[test]
fn a_namespace_leaves_from_its_deletion_until_it_comes_back() {
    let mut cluster = Cluster::new("here");
    cluster.apply(namespace("a"));
    assert!(!cluster.is_leaving("a"));
    cluster.apply(Update::Terminating("a".to_owned()));
    assert!(cluster.is_leaving("a"));
    cluster.apply(Update::Remove(Kind::Namespace, ObjectKey::new("", "a")));
    assert!(cluster.is_leaving("a"));
    cluster.apply(namespace("a"));
    assert!(!cluster.is_leaving("a"));
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("n", name)
}

#[test]
fn a_policy_on_trial_decides_nothing_and_tells_what_it_would() {
    let mut cluster = with_pod();
    cluster.take_trial_changed();
    assert!(cluster.trial().is_none());
    let closed = || Update::Upsert(Object::Audit(policy("a", Vec::new())));
    assert!(!cluster.apply(closed()), "nothing changes in the kernel");
    assert!(cluster.take_trial_changed());
    assert_eq!(grants(&cluster), None);
    let trial = cluster.trial().unwrap_or_default();
    assert!(trial.pods[&key("pod")].ingress.is_some());
    let named = [key("auditnetworkpolicy/a")];
    assert_eq!(cluster.auditing(&key("pod"), Direction::Ingress), named);

    // A real policy of the same name is another, and is none of those that are told of.
    cluster.apply(Update::Upsert(Object::Policy(policy("a", Vec::new()))));
    assert_eq!(cluster.auditing(&key("pod"), Direction::Ingress), named);
    assert_eq!(cluster.isolating(&key("pod"), Direction::Ingress), [key("a")]);

    cluster.apply(Update::Remove(Kind::Audit, key("a")));
    assert!(cluster.take_trial_changed());
    assert!(cluster.trial().is_none());
    assert_eq!(grants(&cluster), Some(0));
}

#[test]
fn a_trial_is_the_cluster_with_its_policies_in_force() {
    let mut cluster = with_pod();
    let own_pods = Rule {
        peers: Some(vec![Peer::Pods {
            namespaces: None,
            pods: Some(Selector::everything()),
        }]),
        ports: None,
    };
    cluster.apply(Update::Upsert(Object::Audit(policy("a", vec![own_pods.clone()]))));
    // What comes after the trial began is part of it, too.
    cluster.apply(Update::Upsert(Object::Pod(pod("late", "here", "10.0.0.3"))));
    cluster.apply(Update::Upsert(Object::Policy(policy("b", Vec::new()))));
    let mut enforced = with_pod();
    enforced.apply(Update::Upsert(Object::Pod(pod("late", "here", "10.0.0.3"))));
    enforced.apply(Update::Upsert(Object::Policy(policy(
        "auditnetworkpolicy/a",
        vec![own_pods],
    ))));
    enforced.apply(Update::Upsert(Object::Policy(policy("b", Vec::new()))));
    assert_eq!(cluster.trial(), Some(enforced.policies()));
}
