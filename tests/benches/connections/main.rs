//! What enforcement costs a connection: `cargo bench -p ringfence-tests --bench connections`.
//!
//! ```text
//!   client's pod ── router with the enforcer's rules ── server's pod
//! ```
//!
//! Both pods are local and isolated in both directions, so every new connection is judged twice, by the client's egress
//! and the server's ingress. The rules are those that the enforcer writes for a world with these policies and pods.
//! Without the enforcer, the kernel still tracks connections and has kube-proxy's usual rule about their state: that is
//! what a node without enforcement looks like.
//!
//! Everything runs in this process and its network namespaces: a packet's whole way, through both pods and the router,
//! is worked off by the thread that sends. So the processor time that a round of connections takes is the cost of the
//! path, and does not see what else the machine does; the wall clock does. Both are printed: rates from processor time
//! are the ones compared. Conditions take turns in pairs, round by round, and the ratio is the median over the pairs.
//!
//! `RINGFENCE_BENCH_ROUNDS` (20), `RINGFENCE_BENCH_MILLIS` (250, a round), `RINGFENCE_BENCH_VARIANTS` (nft,legacy).

mod condition;
mod measure;
mod stats;

use std::env;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use condition::{Condition, Node};
use measure::{Measure, Sample};
use ringfence_enforcer::kernel::Variant;
use ringfence_enforcer::ruleset::Family;
use stats::Paired;

/// What is compared, in which measure, and the least that is wanted of the ratio.
const COMPARED: [(&str, Condition, Condition, Measure, f64); 6] = [
    (
        "new TCP connections: 1,000 policies on the pods, against 1",
        Condition::Policies(1_000),
        Condition::Policies(1),
        Measure::Connections,
        0.99,
    ),
    (
        "new TCP connections: 250 local pods, against 2",
        Condition::Pods(250),
        Condition::Pods(2),
        Measure::Connections,
        0.99,
    ),
    (
        "new TCP connections: 1 policy, against no enforcer",
        Condition::Policies(1),
        Condition::None,
        Measure::Connections,
        0.95,
    ),
    (
        "new TCP connections: 1,000 policies, against no enforcer",
        Condition::Policies(1_000),
        Condition::None,
        Measure::Connections,
        0.95,
    ),
    (
        "established TCP: 1,000 policies, against no enforcer",
        Condition::Policies(1_000),
        Condition::None,
        Measure::Throughput,
        0.98,
    ),
    (
        "UDP round trips: 1,000 policies, against no enforcer",
        Condition::Policies(1_000),
        Condition::None,
        Measure::RoundTrips,
        0.98,
    ),
];

fn main() -> Result<()> {
    let rounds = number("ROUNDS", 20)?;
    let length = Duration::from_millis(number("MILLIS", 250)?);
    let variants = env::var("RINGFENCE_BENCH_VARIANTS").unwrap_or_else(|_| "nft,legacy".to_owned());
    for variant in variants.split(',') {
        let variant = match variant {
            "nft" => Variant::Nft,
            "legacy" => Variant::Legacy,
            other => bail!("RINGFENCE_BENCH_VARIANTS={other}: nft and legacy are known"),
        };
        for family in Family::ALL {
            println!("\n== iptables-{variant}, {family}, {rounds} pairs of rounds of {length:?}");
            compare_all(variant, family, rounds, length)?;
        }
    }
    Ok(())
}

fn number(name: &str, default: u64) -> Result<u64> {
    let name = format!("RINGFENCE_BENCH_{name}");
    match env::var(&name) {
        Err(_) => Ok(default),
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name}={text}: give a whole number")),
    }
}

fn compare_all(variant: Variant, family: Family, rounds: u64, length: Duration) -> Result<()> {
    let mut node = Node::new(variant, family)?;
    for (what, subject, baseline, measure, wanted) in COMPARED {
        let mut pairs: Vec<(Sample, Sample)> = Vec::new();
        for round in 0..=rounds {
            // Who goes first changes, so that a drift hits both; the first pair warms caches up.
            let pair = if round.is_multiple_of(2) {
                let first = node.round(subject, measure, length)?;
                (first, node.round(baseline, measure, length)?)
            } else {
                let first = node.round(baseline, measure, length)?;
                (node.round(subject, measure, length)?, first)
            };
            if round > 0 {
                pairs.push(pair);
            }
        }
        let cpu = Paired::of(&pairs, Sample::per_cpu_second);
        let wall = Paired::of(&pairs, Sample::per_second);
        let verdict = if cpu.ratio >= wanted { "ok" } else { "MISSED" };
        println!("{what}");
        println!("  by processor time  {cpu}  wanted {wanted:.2}  {verdict}");
        println!("  by the clock       {wall}");
    }
    Ok(())
}
