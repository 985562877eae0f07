//! An upgrade, and a move to the other variant: the rules of before are taken over while packets go on to be judged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::ScopedJoinHandle;

use ringfence_enforcer::kernel::{Variant, cleanup, remove_rules};
use ringfence_enforcer::metrics::Writes;
use ringfence_enforcer::names;
use ringfence_enforcer::ruleset::{Family, Ruleset};
use ringfence_policy::{Flow, Policy, Protocol};

use super::net::{Lab, Namespace};
use super::world::{peers, policy, ports, rule, ruleset, world};

const PODS: u8 = 3;

/// Pod 2 may reach pod 0 at TCP 80; everything else into pod 0 is denied.
fn web() -> Policy {
    let web = rule(vec![peers(&[2])], vec![ports(Protocol::Tcp, 80, 80)]);
    policy("web", &[0], Some(vec![web]), None)
}

fn wanted() -> Ruleset {
    ruleset(&world(PODS, vec![web()]))
}

fn flow(family: Family, from: u8, port: u16) -> Flow {
    let at = |pod| Lab::addresses(pod)[usize::from(family == Family::V6)];
    Flow {
        source: at(from),
        destination: at(0),
        protocol: Protocol::Tcp,
        port,
    }
}

/// What went wrong while something was done: connections that had to pass and did not, or the other way round.
fn wrong_during(lab: &Lab, done: impl FnOnce()) -> Vec<String> {
    let (ended, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    let probe = |family: Family| {
        let mut wrong = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            for (flow, passes) in [
                (flow(family, 2, 80), true),
                (flow(family, 2, 8080), false),
                (flow(family, 1, 80), false),
            ] {
                if !lab.obeys(&flow, passes) {
                    wrong.push(format!("{flow:?} should pass: {passes}"));
                }
            }
            rounds.fetch_add(1, Ordering::Relaxed);
        }
        wrong
    };
    std::thread::scope(|scope| {
        let probes: Vec<ScopedJoinHandle<'_, Vec<String>>> = Family::ALL
            .into_iter()
            .flat_map(|family| [family; 2])
            .map(|family| scope.spawn(move || probe(family)))
            .collect();
        done();
        // Whatever the last step broke is seen by rounds that began after it.
        let last = rounds.load(Ordering::Relaxed) + 3 * u32::try_from(probes.len()).unwrap_or(u32::MAX);
        while rounds.load(Ordering::Relaxed) < last {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        ended.store(true, Ordering::Relaxed);
        probes
            .into_iter()
            .flat_map(|probe| probe.join().expect("the probe ends"))
            .collect()
    })
}

/// What another version might have written: the same meaning in other chains, sets and rules. The gate has a name of today
/// with another type, the clients' set one that is not made any more, and there are ways in to chains that go.
const OF_ANOTHER_VERSION: &str = "\
ipset create RINGF-{digit}-ingress.a hash:net family {inet} timeout 0
ipset add RINGF-{digit}-ingress.a {server}
ipset create RINGF-{digit}-old hash:ip family {inet}
ipset add RINGF-{digit}-old {client}
{iptables} -N RINGF-OLD
{iptables} -N RINGF-INGRESS
{iptables} -N RINGF-FORWARD
{iptables} -A RINGF-OLD -p tcp --dport 80 -m set --match-set RINGF-{digit}-old src -j RETURN
{iptables} -A RINGF-OLD -j DROP
{iptables} -A RINGF-INGRESS -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
{iptables} -A RINGF-INGRESS -g RINGF-OLD
{iptables} -A RINGF-FORWARD -m set --match-set RINGF-{digit}-ingress.a dst -j RINGF-INGRESS
{iptables} -A FORWARD -m comment --comment ringfence -j RINGF-FORWARD
{iptables} -A FORWARD -d {server} -m comment --comment older -j RINGF-INGRESS
{iptables} -A OUTPUT -d {server} -m mark --mark 0x77 -j RINGF-OLD";

fn write_as_another_version(router: &Namespace, variant: Variant) {
    for (family, program) in Family::ALL.into_iter().zip(["iptables", "ip6tables"]) {
        let at = |pod| Lab::addresses(pod)[usize::from(family == Family::V6)].to_string();
        let script = OF_ANOTHER_VERSION
            .replace("{digit}", &family.digit().to_string())
            .replace("{inet}", family.ipset())
            .replace("{iptables}", &format!("{program}-{variant}"))
            .replace("{client}", &at(2))
            .replace("{server}", &at(0));
        for line in script.lines() {
            router.run(&line.split(' ').collect::<Vec<_>>());
        }
    }
}

/// Everything of ours in the kernel, and nothing else.
fn ours(router: &Namespace) -> BTreeSet<String> {
    let saved = router.saved();
    saved
        .lines()
        .filter(|line| line.contains(names::PREFIX))
        .map(|line| line.split(" initval ").next().unwrap_or(line).to_owned())
        .collect()
}

#[test]
fn an_upgrade_takes_over_what_another_version_wrote_without_a_gap() {
    for variant in Variant::ALL {
        let fresh = Namespace::new();
        fresh
            .engine(variant)
            .0
            .sync(&wanted())
            .expect("the kernel takes the rules");
        let lab = Lab::new(PODS);
        write_as_another_version(&lab.router, variant);
        let wrong = wrong_during(&lab, || {
            lab.router
                .engine(variant)
                .0
                .sync(&wanted())
                .expect("the kernel takes the rules");
        });
        assert_eq!(wrong, Vec::<String>::new(), "{variant}");
        // The gate has another generation, for its first was of another type; apart from that it is a fresh node's.
        let named = |lines: BTreeSet<String>| -> BTreeSet<String> {
            lines
                .iter()
                .map(|line| line.replace("ingress.b", "ingress.a"))
                .collect()
        };
        assert_eq!(named(ours(&lab.router)), ours(&fresh), "{variant}");
        let (mut again, writes) = lab.router.engine(variant);
        again.sync(&wanted()).expect("the kernel holds the rules");
        assert_eq!(writes.total(), 0, "{variant}");
        cleanup(&lab.router.tools(&Writes::default())).expect("everything can be removed");
        assert!(!lab.router.saved().contains(names::PREFIX), "{variant}");
    }
}

#[test]
fn a_node_moves_to_the_other_variant_and_back_without_a_gap() {
    for from in Variant::ALL {
        let to = from.other();
        let lab = Lab::new(PODS);
        lab.router
            .engine(from)
            .0
            .sync(&wanted())
            .expect("the kernel takes the rules");
        let wrong = wrong_during(&lab, || {
            let (mut engine, _) = lab.router.engine(to);
            engine
                .sync_keeping_sets(&wanted())
                .expect("the kernel takes the rules");
            remove_rules(&lab.router.tools(&Writes::default()), from, &Family::ALL)
                .expect("the old rules go");
            engine.sync(&wanted()).expect("the kernel takes the rules");
        });
        assert_eq!(wrong, Vec::<String>::new(), "from {from} to {to}");
        for program in ["iptables", "ip6tables"] {
            let left = lab.router.run(&[&format!("{program}-{from}-save")]);
            assert!(!left.contains(names::PREFIX), "{left}");
        }
    }
}

#[test]
fn a_pod_that_goes_leaves_nothing_and_a_drained_node_keeps_only_the_frame() {
    for variant in Variant::ALL {
        let namespace = Namespace::new();
        let (mut engine, _) = namespace.engine(variant);
        engine
            .sync(&ruleset(&world(0, vec![])))
            .expect("the kernel takes the rules");
        let empty = ours(&namespace);
        engine.sync(&wanted()).expect("the kernel takes the rules");
        let address = Lab::addresses(0)[0].to_string();
        assert!(namespace.saved().contains(&address));
        let mut drained = world(PODS, vec![web()]);
        drained
            .pods
            .retain(|_, pod| pod.node.as_deref() != Some(super::world::NODE));
        engine
            .sync(&ruleset(&drained))
            .expect("the kernel takes the rules");
        assert!(!namespace.saved().contains(&address), "{variant}");
        assert_eq!(ours(&namespace), empty, "{variant}");
    }
}
