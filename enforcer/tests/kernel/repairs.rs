//! Restarts, other people's hands, and clean-up.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ringfence_enforcer::kernel::{Variant, VariantChoice, cleanup, detect};
use ringfence_enforcer::metrics::Writes;
use ringfence_enforcer::names;
use ringfence_enforcer::options::{LogOptions, Options};
use ringfence_enforcer::plan::plan;
use ringfence_enforcer::rules::entrance;
use ringfence_enforcer::ruleset::{Family, Ruleset};
use ringfence_policy::{Protocol, resolve};

use super::net::Namespace;
use super::world::{NODE, peers, policy, ports, rule, ruleset, world};

fn wanted() -> Ruleset {
    let web = rule(
        vec![peers(&[2, 3])],
        vec![ports(Protocol::Tcp, 80, 80), ports(Protocol::Tcp, 1000, 2000)],
    );
    ruleset(&world(
        4,
        vec![policy("web", &[0], Some(vec![web.clone()]), Some(vec![web]))],
    ))
}

/// Somebody else's rules and sets, which must be there afterwards as they were.
fn add_foreign_rules(namespace: &Namespace, variant: Variant) {
    namespace.run(&["ipset", "create", "KUBE-SOMETHING", "hash:ip"]);
    namespace.run(&["ipset", "add", "KUBE-SOMETHING", "192.0.2.1"]);
    for tables in ["iptables", "ip6tables"] {
        let iptables = format!("{tables}-{variant}");
        namespace.run(&[&iptables, "-N", "KUBE-FORWARD"]);
        namespace.run(&[
            &iptables,
            "-A",
            "KUBE-FORWARD",
            "-m",
            "mark",
            "--mark",
            "0x4000/0x4000",
            "-j",
            "ACCEPT",
        ]);
        namespace.run(&[&iptables, "-A", "FORWARD", "-j", "KUBE-FORWARD"]);
        namespace.run(&[&iptables, "-t", "nat", "-N", "KUBE-SERVICES"]);
    }
}

#[test]
fn a_restart_writes_nothing_and_reads_the_same() {
    for variant in Variant::ALL {
        let namespace = Namespace::new();
        add_foreign_rules(&namespace, variant);
        let (mut first, writes) = namespace.engine(variant);
        first.sync(&wanted()).expect("the kernel takes the rules");
        assert!(writes.total() > 0);
        let (mut second, writes) = namespace.engine(variant);
        second.sync(&wanted()).expect("the kernel holds the rules");
        assert_eq!(writes.total(), 0, "{variant}");
        assert_eq!(first.held(), second.held(), "{variant}");
        assert_eq!(
            second.audit().expect("the kernel can be read"),
            Vec::<String>::new()
        );
    }
}

#[test]
fn what_others_break_is_noticed_and_repaired() {
    let first = "RINGF-4-ingress.a";
    for variant in Variant::ALL {
        let iptables = &format!("iptables-{variant}");
        let ways_in = entrance().map(|rule| rule.to_string());
        let [enter_revoked, enter] = ways_in.each_ref().map(|rule| {
            let command = [iptables.as_str(), "-D", "FORWARD"].into_iter();
            command.chain(rule.split(' ')).collect::<Vec<_>>()
        });
        let between = [iptables.as_str(), "-I", "FORWARD", "2", "-j", "ACCEPT"];
        let damages: [&[&str]; 7] = [
            &[iptables, "-F"],
            &[iptables, "-I", "FORWARD", "-j", "ACCEPT"],
            &[iptables, "-I", names::FORWARD, "-j", "ACCEPT"],
            &between,
            &enter,
            &enter_revoked,
            &["ipset", "flush", first],
        ];
        for damage in damages {
            let namespace = Namespace::new();
            let (mut engine, _) = namespace.engine(variant);
            engine.sync(&wanted()).expect("the kernel takes the rules");
            let good = engine.held().cloned();
            namespace.run(damage);
            let found = engine.audit().expect("the kernel can be read");
            assert!(!found.is_empty(), "{variant}: {damage:?} was not noticed");
            let repaired = engine.sync(&wanted()).expect("the kernel takes the repair");
            // What has begun meanwhile has to be looked at; where revoked connections went on, none has.
            let began = damage != enter_revoked.as_slice();
            assert_eq!(repaired.tightens, began, "{variant}: {damage:?}");
            let (mut fresh, writes) = namespace.engine(variant);
            fresh.sync(&wanted()).expect("the kernel holds the rules");
            assert_eq!(writes.total(), 0, "{variant}: {damage:?} was not repaired");
            assert_eq!(fresh.held(), good.as_ref(), "{variant}: {damage:?}");
        }
    }
}

#[test]
fn a_set_that_somebody_destroyed_is_made_again() {
    for variant in Variant::ALL {
        let namespace = Namespace::new();
        let (mut engine, _) = namespace.engine(variant);
        engine.sync(&wanted()).expect("the kernel takes the rules");
        let good = engine.held().cloned();
        // The rules that use it have to go first, as kernels have it.
        for tables in ["iptables", "ip6tables"] {
            namespace.run(&[&format!("{tables}-{variant}"), "-F"]);
        }
        destroy(&namespace, "RINGF-4-ingress.a");
        assert!(!engine.audit().expect("the kernel can be read").is_empty());
        engine.sync(&wanted()).expect("the kernel takes the repair");
        assert_eq!(engine.held(), good.as_ref(), "{variant}");
    }
}

/// nftables lets go of a set a moment after the rule that used it.
fn destroy(namespace: &Namespace, set: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let script = format!("ipset destroy {set} 2>/dev/null && echo gone || true");
    while namespace.run(&["sh", "-c", &script]).trim() != "gone" {
        assert!(Instant::now() < deadline, "{set} is not let go");
    }
}

#[test]
fn a_set_that_somebody_filled_up_is_named_and_then_replaced() {
    let namespace = Namespace::new();
    let (mut engine, _) = namespace.engine(Variant::Nft);
    engine.sync(&wanted()).expect("the kernel takes the rules");
    let set = "RINGF-4-ingress.a";
    let lines: String = (0..2_000_u16)
        .map(|number| format!("add {set} 192.168.{}.{}\n", number / 250, number % 250))
        .collect();
    // The kernel stops at the set's capacity, which is where it is wanted.
    let fill = format!("printf '{lines}' | ipset -exist restore 2>/dev/null || true");
    namespace.run(&["sh", "-c", &fill]);
    let wider = ruleset(&world(
        4,
        vec![policy("all", &[0, 1], Some(vec![rule(vec![], vec![])]), None)],
    ));
    let error = engine.sync(&wider).expect_err("there is no room");
    assert_eq!(error.name(), "Sets");
    assert!(
        error.to_string().contains(set) && error.to_string().contains("full"),
        "{error}"
    );
    engine.sync(&wider).expect("the kernel takes another set");
    let (mut fresh, writes) = namespace.engine(Variant::Nft);
    fresh.sync(&wider).expect("the kernel holds the rules");
    assert_eq!(writes.total(), 0, "not repaired");
}

#[test]
fn cleanup_leaves_everything_as_it_was_and_can_be_repeated() {
    for variant in Variant::ALL {
        let namespace = Namespace::new();
        add_foreign_rules(&namespace, variant);
        namespace.run(&[&format!("iptables-{variant}"), "-A", "INPUT", "-j", "ACCEPT"]);
        let before = namespace.saved();
        let (mut engine, _) = namespace.engine(variant);
        engine.sync(&wanted()).expect("the kernel takes the rules");
        assert_ne!(namespace.saved(), before);
        let writes = Writes::default();
        let removed = cleanup(&namespace.tools(&writes)).expect("everything can be removed");
        assert!(!removed.is_empty());
        assert_eq!(namespace.saved(), before, "{variant}");
        let once = writes.total();
        assert_eq!(
            cleanup(&namespace.tools(&writes)).expect("nothing is left"),
            Vec::<String>::new()
        );
        assert_eq!(writes.total(), once, "nothing to remove, nothing written");
    }
}

#[test]
fn rules_of_the_other_variant_are_removed_by_cleanup_too() {
    let namespace = Namespace::new();
    for variant in Variant::ALL {
        namespace
            .engine(variant)
            .0
            .sync_keeping_sets(&wanted())
            .expect("the kernel takes the rules");
    }
    cleanup(&namespace.tools(&Writes::default())).expect("everything can be removed");
    assert!(!namespace.saved().contains(names::PREFIX));
}

#[test]
fn a_set_that_a_hand_made_rule_uses_is_named_by_cleanup() {
    let namespace = Namespace::new();
    let (mut engine, _) = namespace.engine(Variant::Nft);
    engine.sync(&wanted()).expect("the kernel takes the rules");
    namespace.run(&[
        "iptables-nft",
        "-A",
        "INPUT",
        "-m",
        "set",
        "--match-set",
        "RINGF-4-node.a",
        "src",
        "-j",
        "ACCEPT",
    ]);
    let error = cleanup(&namespace.tools(&Writes::default())).expect_err("the set is in use");
    assert!(error.to_string().contains("RINGF-4-node.a"), "{error}");
}

#[test]
fn the_variant_with_kubernetes_chains_is_found() {
    for variant in Variant::ALL {
        let namespace = Namespace::new();
        add_foreign_rules(&namespace, variant);
        let found =
            detect(&namespace.tools(&Writes::default()), VariantChoice::Auto).expect("the tools are there");
        assert_eq!(found, variant);
    }
}

#[test]
fn a_lock_that_somebody_holds_is_waited_for_and_reported() {
    let namespace = Namespace::new();
    let held = namespace.hold_lock();
    assert!(held.as_fd().try_clone_to_owned().is_ok());
    let (mut engine, _) = namespace.engine(Variant::Legacy);
    let error = engine.sync(&wanted()).expect_err("the lock is held");
    assert_eq!(error.name(), "LockHeld", "{error}");
    held.unlock()
        .map_err(|(_, error)| error)
        .expect("it can be unlocked");
    engine.sync(&wanted()).expect("the lock is free");
}

/// iptables-nft-save prints nothing of such a table and says that all is well. Taken for an empty table, ours would be written
/// to it with every audit.
#[test]
fn a_table_that_iptables_cannot_read_is_left_alone_and_named() {
    let namespace = Namespace::new();
    let (mut engine, writes) = namespace.engine(Variant::Nft);
    engine.sync(&wanted()).expect("the kernel takes the rules");
    namespace.run(&[
        "nft", "add", "rule", "ip", "filter", "FORWARD", "ct", "state", "invalid", "drop",
    ]);
    let before = (writes.total(), namespace.run(&["nft", "list", "ruleset"]));
    let error = engine.audit().expect_err("nobody knows what is there");
    assert_eq!(error.name(), "TableUnreadable");
    assert!(error.to_string().contains("table of its own"), "{error}");
    let (mut fresh, _) = namespace.engine(Variant::Nft);
    assert!(
        fresh.sync(&wanted()).is_err(),
        "a restart changes nothing about it"
    );
    assert!(cleanup(&namespace.tools(&Writes::default())).is_err());
    let after = (writes.total(), namespace.run(&["nft", "list", "ruleset"]));
    assert_eq!(after, before);
    let detected = detect(&namespace.tools(&Writes::default()), VariantChoice::Auto);
    assert_eq!(detected.expect("a variant"), Variant::Nft);
}

#[test]
fn every_rate_of_log_messages_reads_back_as_it_was_written() {
    for variant in Variant::ALL {
        for per_minute in [1, 59, 60, 61, 90, 120, 7_000, 180_000, 500_000, 600_000] {
            let namespace = Namespace::new();
            let (mut engine, _) = namespace.engine(variant);
            let log = LogOptions {
                per_minute,
                ..LogOptions::default()
            };
            let options = Options {
                log: Some(log),
                ..Options::default()
            };
            let ruleset = plan(&resolve(&world(2, vec![]), NODE), &[], &Family::ALL, &options);
            engine.sync(&ruleset).expect("the kernel takes the rules");
            let differences = engine.audit().expect("the kernel can be read");
            assert_eq!(differences, Vec::<String>::new(), "{variant}: {per_minute}");
        }
    }
}

/// The kernel refuses to let such a chain go, and with it everything else of the transaction.
#[test]
fn a_rule_of_somebody_else_that_leads_to_a_chain_of_ours_keeps_only_that_chain() {
    for variant in Variant::ALL {
        let iptables = &format!("iptables-{variant}");
        let namespace = Namespace::new();
        let (mut engine, _) = namespace.engine(variant);
        engine.sync(&wanted()).expect("the kernel takes the rules");
        let held = engine.held().expect("it is known");
        let chain = held.families[&Family::V4]
            .chains
            .keys()
            .find(|chain| chain.starts_with("RINGF-P-"))
            .expect("a pod's chain")
            .clone();
        namespace.run(&[iptables, "-N", "THEIRS"]);
        namespace.run(&[iptables, "-A", "THEIRS", "-j", &chain]);
        let nobody = ruleset(&world(4, vec![]));
        // What was assumed of the kernel is read anew after the refusal.
        let _ = engine.sync(&nobody);
        engine.sync(&nobody).expect("the kernel takes the rest");
        let left = namespace.run(&[iptables, "-S", &chain]);
        assert_eq!(left.trim(), format!("-N {chain}"), "{variant}: it says nothing");
        assert_eq!(engine.audit().expect("it can be read"), Vec::<String>::new());
        let (mut fresh, writes) = namespace.engine(variant);
        fresh.sync(&nobody).expect("the kernel holds the rules");
        assert_eq!(writes.total(), 0, "{variant}");
        engine.sync(&wanted()).expect("it comes back where it is wanted");
        assert_eq!(engine.audit().expect("it can be read"), Vec::<String>::new());
    }
}
