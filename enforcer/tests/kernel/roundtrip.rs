//! What is written is read back as it was written, and a restart finds nothing to do.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_enforcer::kernel::{Kernel, LocalKernel, Variant};
use ringfence_enforcer::metrics::Writes;
use ringfence_enforcer::names;
use ringfence_enforcer::observe::element;
use ringfence_enforcer::plan::DIRECTIONS;
use ringfence_enforcer::rules::{Rule, entrance, samples};
use ringfence_enforcer::ruleset::{Element, Family, Hook, SetKind};
use ringfence_enforcer::state::{ChainChange, JumpChange, Phase, SetChange, State};

use super::net::Namespace;

/// Phases that hold a rule of every kind, a set of every kind and an element of every form.
fn everything(family: Family) -> [Phase; 2] {
    let rules = samples(family);
    let mut sets = Vec::new();
    for name in rules.iter().filter_map(Rule::set).collect::<BTreeSet<_>>() {
        let kind = match name.as_str().as_bytes()[7] {
            b'p' => SetKind::NetPort,
            b'n' | b'g' | b'u' => SetKind::Net,
            _ => SetKind::Address,
        };
        sets.push(SetChange::Create {
            name: name.clone(),
            kind,
            family,
            capacity: 2048,
        });
        sets.push(SetChange::Add(name.clone(), elements(family, kind)));
    }
    let targets = rules
        .iter()
        .filter_map(Rule::target)
        .map(|chain| (chain.to_owned(), Vec::new()));
    let mut replace: BTreeMap<_, _> = targets.collect();
    replace.insert(
        names::FORWARD.to_owned(),
        rules.iter().map(ToString::to_string).collect(),
    );
    let jump = JumpChange {
        remove: vec![],
        insert: entrance().iter().map(ToString::to_string).collect(),
    };
    [
        Phase::Sets(sets),
        Phase::Chains(
            family,
            ChainChange {
                replace,
                delete: BTreeSet::new(),
                jumps: Hook::ALL.map(|hook| (hook, jump.clone())).into(),
                strays: BTreeSet::new(),
            },
        ),
    ]
}

fn elements(family: Family, kind: SetKind) -> Vec<Element> {
    let texts: &[&str] = match (family, kind) {
        (Family::V4, SetKind::Address) => &["10.0.0.1"],
        (Family::V4, SetKind::Net) => &["0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/24", "10.0.0.1"],
        (Family::V4, SetKind::NetPort) => &[
            "0.0.0.0/1,tcp:80",
            "10.0.0.1,udp:53",
            "10.0.0.0/24,sctp:1",
            "10.0.0.2,tcp:0",
        ],
        (Family::V6, SetKind::Address) => &["fd00::1", "fd00:0:0:1::"],
        (Family::V6, SetKind::Net) => &["::/1", "8000::/1", "fd00::/64", "fd00::1"],
        (Family::V6, SetKind::NetPort) => &[
            "8000::/1,tcp:80",
            "fd00::1,udp:53",
            "fd00::/64,sctp:1",
            "fd00::2,tcp:65535",
        ],
    };
    texts
        .iter()
        .map(|text| element(text).expect("an element"))
        .collect()
}

#[test]
fn every_rule_and_element_is_read_back_as_it_was_written_in_both_variants() {
    for variant in Variant::ALL {
        let namespace = Namespace::new();
        let mut kernel = LocalKernel::new(namespace.tools(&Writes::default()), variant, &Family::ALL);
        let mut expected = State::default();
        for phase in Family::ALL.into_iter().flat_map(everything) {
            kernel
                .write(&phase)
                .unwrap_or_else(|error| panic!("{variant}: {error}"));
            expected
                .apply(&phase)
                .expect("the model takes what the kernel takes");
        }
        let held = kernel.read().expect("the kernel can be read");
        assert_eq!(held.families, expected.families, "{variant}");
        assert_eq!(held.sets, expected.sets, "{variant}");
        assert_eq!(
            kernel.glance().expect("the kernel can be read"),
            expected.glance(),
            "{variant}"
        );
        for hook in Hook::ALL {
            let places = held.families[&Family::V4].jumps_in(hook).iter();
            assert_eq!(places.map(|(place, _)| *place).collect::<Vec<_>>(), [1, 2]);
        }
        for direction in DIRECTIONS {
            assert!(
                held.families[&Family::V6]
                    .chains
                    .contains_key(names::root(direction))
            );
        }
    }
}
