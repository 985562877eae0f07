//! The enforcer as a process, with a real API server and real packets, in a storm of changes: at every moment what
//! passes is what the old or the new state allows, and what both allow passes. `kill -9` at random moments included.
//!
//! ```text
//!   API server on loopback ◄── forwarder ── router: ringfence-enforcer run        pods around the router: every few
//!        ▲                                                                        milliseconds one packet of a new flow
//!        └── random changes, one burst after the other                            from each to each, both families
//! ```
//!
//! A burst of changes counts as over when three beacons have followed it, one for each kind of object that is watched:
//! a path that opens or closes by a pod's label, by a namespace's and by a policy. Until then the states before, within
//! and after the burst are all possible, and afterwards only the last. What arrived at a receiver is judged against the
//! naive reading of the policies.
//!
//! `RINGFENCE_STORM_CHANGES`, `_RUNS` and `_SEED` override the size; `RINGFENCE_LONG` is 1,000 changes, ten times.

mod beacon;
mod clock;
mod judge;
mod lab;
mod outage;
mod probes;
mod random;
mod run;

use ringfence_enforcer::kernel::Variant;

use crate::lab::Lab;
use crate::run::{Plan, storm};

fn storms(variant: Variant) {
    let plan = Plan::from_env();
    for number in 0..plan.runs {
        let seed = plan.seed.unwrap_or_else(|| fastrand::u64(..));
        let lab = Lab::start(variant).expect("a laboratory");
        let report = storm(&lab, plan.changes, seed).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        println!("iptables-{variant}, run {number}, seed {seed}: {report}");
        assert!(
            report.is_clean(),
            "seed {seed}: {report}\n{}\n{}",
            report.examples.join("\n"),
            lab.whole_log()
        );
        lab.finish()
            .unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    }
}

#[test]
fn a_storm_with_kills_opens_and_closes_nothing_by_mistake_in_nft() {
    storms(Variant::Nft);
}

#[test]
fn a_storm_with_kills_opens_and_closes_nothing_by_mistake_in_legacy() {
    storms(Variant::Legacy);
}
