//! Faults of the node: each is repaired, or said, and never opens what was closed before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringfence_enforcer::cluster::{Object, Update};
use ringfence_enforcer::engine::Engine;
use ringfence_enforcer::error::Error;
use ringfence_enforcer::kernel::{Kernel, LocalKernel, Variant};
use ringfence_enforcer::names;
use ringfence_enforcer::ruleset::{Ruleset, SetKind};
use ringfence_enforcer::state::{Glance, Phase, SetChange, State};
use ringfence_policy::{Policy, Protocol};

use super::agent::start;
use super::net::Namespace;
use super::world::{peers, policy, ports, rule, ruleset, updates, world};

/// A policy that lets so many peers in to pod 0.
fn web(from: &[u8]) -> Policy {
    let rule = rule(vec![peers(from)], vec![ports(Protocol::Tcp, 80, 80)]);
    policy("web", &[0], Some(vec![rule]), None)
}

fn wanted(from: &[u8]) -> Ruleset {
    ruleset(&world(4, vec![web(from)]))
}

/// Fails unless the kernel holds exactly this.
fn assert_held(namespace: &Namespace, variant: Variant, wanted: &Ruleset) {
    let (mut fresh, writes) = namespace.engine(variant);
    fresh.sync(wanted).expect("the kernel can be read");
    assert_eq!(writes.total(), 0, "{variant}: the kernel held something else");
}

/// Our sets by name, as ipset lists them.
fn sets(namespace: &Namespace) -> Vec<String> {
    let listed = namespace.run(&["ipset", "list", "-name"]);
    let ours = listed.lines().filter(|name| name.starts_with(names::PREFIX));
    ours.map(str::to_owned).collect()
}

/// The set that holds who may reach what, in IPv4.
fn granted(namespace: &Namespace) -> String {
    let mut granted = sets(namespace)
        .into_iter()
        .filter(|name| name.starts_with("RINGF-4p-"));
    granted.next().expect("a set of pairs")
}

#[test]
fn a_set_of_our_name_that_is_too_small_or_of_another_type_is_not_used() {
    let name = {
        let namespace = Namespace::new();
        let (mut engine, _) = namespace.engine(Variant::Nft);
        engine.sync(&wanted(&[1, 2])).expect("the kernel takes the rules");
        granted(&namespace)
    };
    for kind in [
        "hash:net,port maxelem 1",
        "hash:ip,port",
        "hash:net,port timeout 9",
        "hash:ip",
    ] {
        let namespace = Namespace::new();
        let create: Vec<&str> = ["ipset", "create", &name]
            .into_iter()
            .chain(kind.split(' '))
            .collect();
        namespace.run(&create);
        let (mut engine, _) = namespace.engine(Variant::Nft);
        engine
            .sync(&wanted(&[1, 2]))
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_held(&namespace, Variant::Nft, &wanted(&[1, 2]));
        assert_ne!(granted(&namespace), name, "{kind}");
    }
}

#[test]
fn sets_and_chains_that_are_all_gone_are_made_again() {
    for variant in Variant::ALL {
        let namespace = Namespace::new();
        let (mut engine, _) = namespace.engine(variant);
        engine.sync(&wanted(&[1])).expect("the kernel takes the rules");
        for tables in ["iptables", "ip6tables"] {
            namespace.run(&[&format!("{tables}-{variant}"), "-F"]);
            namespace.run(&[&format!("{tables}-{variant}"), "-X"]);
        }
        // nftables lets go of a set a moment after the rule that used it.
        for set in sets(&namespace) {
            let destroy = format!(
                "for i in $(seq 100); do ipset destroy {set} 2>/dev/null && exit; sleep 0.1; done; exit 1"
            );
            namespace.run(&["sh", "-c", &destroy]);
        }
        assert!(!engine.audit().expect("the kernel can be read").is_empty());
        engine.sync(&wanted(&[1])).expect("the kernel takes the repair");
        assert_held(&namespace, variant, &wanted(&[1]));
    }
}

/// A kernel without a type of set, for as long as that is so.
struct Poor {
    kernel: LocalKernel,
    lacks: Arc<AtomicBool>,
}

impl Kernel for Poor {
    fn read(&mut self) -> ringfence_enforcer::Result<State> {
        self.kernel.read()
    }

    fn glance(&mut self) -> ringfence_enforcer::Result<Glance> {
        self.kernel.glance()
    }

    fn write(&mut self, phase: &Phase) -> ringfence_enforcer::Result<()> {
        let lacking = |change: &&SetChange| {
            matches!(
                change,
                SetChange::Create {
                    kind: SetKind::NetPort,
                    ..
                }
            )
        };
        if let Phase::Sets(changes) = phase
            && self.lacks.load(Ordering::Relaxed)
            && changes.iter().any(|change| lacking(&change))
        {
            return Err(Error::ToolFailed {
                tool: "ipset".to_owned(),
                status: "error".to_owned(),
                message: "the kernel has no hash:net,port".to_owned(),
            });
        }
        self.kernel.write(phase)
    }
}

#[test]
fn a_kernel_without_a_type_of_set_keeps_the_old_rules_until_it_has_it() {
    for variant in Variant::ALL {
        let namespace = Namespace::new();
        // Everybody is kept out: that needs no set of pairs.
        let closed = ruleset(&world(4, vec![policy("web", &[0], Some(vec![]), None)]));
        namespace
            .engine(variant)
            .0
            .sync(&closed)
            .expect("the kernel takes the rules");
        let before = namespace.saved();
        let lacks = Arc::new(AtomicBool::new(true));
        let kernel = LocalKernel::new(
            namespace.tools(&ringfence_enforcer::metrics::Writes::default()),
            variant,
            &ringfence_enforcer::ruleset::Family::ALL,
        );
        let mut engine = Engine::new(Poor {
            kernel,
            lacks: Arc::clone(&lacks),
        });
        for _ in 0..3 {
            let error = engine.sync(&wanted(&[1])).expect_err("the type is not there");
            assert!(error.to_string().contains("hash:net,port"), "{error}");
            assert_eq!(
                namespace.saved(),
                before,
                "{variant}: something changed without the rest"
            );
        }
        lacks.store(false, Ordering::Relaxed);
        engine.sync(&wanted(&[1])).expect("the type is there");
        assert_held(&namespace, variant, &wanted(&[1]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_is_told_in_readiness_and_metrics_and_is_waited_out() {
    let namespace = Namespace::new();
    let agent = start(&namespace, Variant::Legacy);
    agent.tell(updates(&world(4, vec![web(&[1])])));
    agent.until_ready().await;
    let before = namespace.saved();
    let held = namespace.hold_lock();
    // Pod 1 becomes isolated, too, which takes a chain.
    let more = policy("more", &[1], Some(vec![]), None);
    agent.tell([Update::Upsert(Object::Policy(more.clone()))]);
    agent.until("not ready", || !agent.is_ready()).await;
    assert!(
        agent.readiness().contains("xtables lock"),
        "{}",
        agent.readiness()
    );
    assert!(
        agent.metrics().contains("error=\"LockHeld\""),
        "{}",
        agent.metrics()
    );
    let chains = |saved: &str| -> Vec<String> {
        let lines = saved.lines().filter(|line| line.starts_with("-A "));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(chains(&namespace.saved()), chains(&before), "the last rules hold");
    drop(held);
    agent.until_ready().await;
    agent.stop().await;
    assert_held(
        &namespace,
        Variant::Legacy,
        &ruleset(&world(4, vec![web(&[1]), more])),
    );
}

/// What others have in the filter table, apart from where our jump stands.
fn foreign(namespace: &Namespace, variant: Variant) -> String {
    let mut foreign = String::new();
    for tables in ["iptables", "ip6tables"] {
        let saved = namespace.run(&[&format!("{tables}-{variant}-save")]);
        let lines = saved
            .lines()
            .filter(|line| !line.starts_with('#') && !line.contains(names::PREFIX));
        foreign.extend(lines.map(|line| line.split(" [").next().unwrap_or(line).to_owned() + "\n"));
    }
    foreign
}

async fn kube_proxy_puts_its_rules_above_ours(variant: Variant) {
    let namespace = Namespace::new();
    let iptables = &format!("iptables-{variant}");
    let accept = ["-m", "mark", "--mark", "0x4000/0x4000", "-j", "ACCEPT"];
    let run = |words: &[&str]| {
        let command: Vec<&str> = [iptables.as_str()]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        namespace.run(&command);
    };
    run(&["-N", "KUBE-FORWARD"]);
    run(&[&["-A", "KUBE-FORWARD"][..], &accept[..]].concat());
    run(&["-A", "FORWARD", "-j", "KUBE-FORWARD"]);
    run(&["-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "DROP"]);
    let agent = start(&namespace, variant);
    agent.tell(updates(&world(4, vec![web(&[1])])));
    agent.until_ready().await;

    let first_rule = || {
        let listed = namespace.run(&[iptables, "-S", "FORWARD"]);
        listed.lines().nth(1).unwrap_or_default().to_owned()
    };
    assert!(first_rule().contains(names::FORWARD));
    // As after somebody's `iptables -F FORWARD`: everybody puts back what is theirs, each first.
    run(&["-F", "FORWARD"]);
    run(&["-I", "FORWARD", "-s", "192.0.2.0/24", "-j", "DROP"]);
    run(&["-I", "FORWARD", "-j", "KUBE-FORWARD"]);
    run(&[
        "-I",
        "FORWARD",
        "-m",
        "conntrack",
        "--ctstate",
        "RELATED,ESTABLISHED",
        "-j",
        "ACCEPT",
    ]);
    let theirs = foreign(&namespace, variant);
    agent
        .until("our jump to be first again", || {
            first_rule().contains(names::FORWARD)
        })
        .await;
    assert_eq!(
        foreign(&namespace, variant),
        theirs,
        "{variant}: others' rules were touched"
    );
    assert!(agent.counters.repairs.get() > 0);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_proxy_that_puts_its_rules_above_ours_is_followed_in_nft() {
    kube_proxy_puts_its_rules_above_ours(Variant::Nft).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_proxy_that_puts_its_rules_above_ours_is_followed_in_legacy() {
    kube_proxy_puts_its_rules_above_ours(Variant::Legacy).await;
}

async fn flushed(variant: Variant) {
    for command in ["-F", "-F FORWARD", "-F RINGF-FORWARD"] {
        let namespace = Namespace::new();
        let agent = start(&namespace, variant);
        agent.tell(updates(&world(4, vec![web(&[1])])));
        agent.until_ready().await;
        let good = namespace.saved();
        let iptables = format!("iptables-{variant}");
        let words: Vec<&str> = [iptables.as_str()]
            .into_iter()
            .chain(command.split(' '))
            .collect();
        namespace.run(&words);
        let flushed = std::time::Instant::now();
        agent.until("the repair", || namespace.saved() == good).await;
        println!("{variant}: {command} repaired after {:?}", flushed.elapsed());
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_flushes_is_put_back_in_nft() {
    flushed(Variant::Nft).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_flushes_is_put_back_in_legacy() {
    flushed(Variant::Legacy).await;
}
