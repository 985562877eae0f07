//! What enforcement costs a connection: `cargo bench -p ringfence-tests --bench connections`.
//!
//! ```text
//!   client's pod ── node with kube-proxy's rules, and the enforcer's ── server's pod
//! ```
//!
//! Both pods are local and isolated in both directions, so every new connection is judged twice, by the client's egress
//! and the server's ingress: the most that any connection can cost on a node. The rules are those that the enforcer writes
//! for a world with these policies and pods. Without the enforcer the kernel still tracks connections, for kube-proxy has
//! rules about their state on every node: that is what a node without enforcement looks like.
//!
//! # What is measured
//!
//! Client and server are two threads that wait for each other, and share one processor. A connection is opened, accepted
//! and reset by the server; a UDP packet is answered; 64 KiB at a time go through a
//! connection that one thread holds both ends of. A packet's whole way,
//! through both pods and the node, is worked off by the thread that sent it before its system call returns. So the
//! processor time that the two use *is* the cost, and what else the machine does touches it only by way of the caches. Rates
//! are what one processor can do: the operations in a second of its time.
//!
//! A figure is the median over batches of some milliseconds. All cases take turns in one node, round by round; a ratio is
//! the median, over the rounds, of ratios within a round. "No enforcer" stands twice in each round: what differs between
//! the two is noise, and nothing can be told from less. Before it is measured, each case shows that what is granted passes
//! and that, where something is enforced, what is not granted does not.
//!
//! # Settings
//!
//! `--worst` measures the worst that policies can ask for too, `--check` fails where a target is missed.
//! `RINGFENCE_BENCH_ROUNDS` (15), `RINGFENCE_BENCH_BATCHES` (30, of about 4 ms, for each figure),
//! `RINGFENCE_BENCH_VARIANTS` (nft,legacy), `RINGFENCE_BENCH_FAMILIES` (ipv4,ipv6).

mod lab;
mod load;
mod stats;
mod worlds;

use std::env;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lab::Node;
use load::{Client, Load};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use ringfence_enforcer::kernel::Variant;
use ringfence_enforcer::ruleset::Family;
use stats::{Ratio, quartiles};
use worlds::{CROWD, Case, NONE, ONE, THOUSAND};

/// What is compared: the case, with which, in which measure, and the least that is wanted of the ratio.
const TARGETS: [(&str, &str, Load, f64); 11] = [
    (THOUSAND, ONE, Load::Connections, 0.99),
    (CROWD, ONE, Load::Connections, 0.99),
    (ONE, NONE, Load::Connections, 0.95),
    (THOUSAND, NONE, Load::Connections, 0.95),
    (CROWD, NONE, Load::Connections, 0.95),
    (ONE, NONE, Load::RoundTrips, 0.98),
    (THOUSAND, NONE, Load::RoundTrips, 0.98),
    (CROWD, NONE, Load::RoundTrips, 0.98),
    (ONE, NONE, Load::Throughput, 0.98),
    (THOUSAND, NONE, Load::Throughput, 0.98),
    (CROWD, NONE, Load::Throughput, 0.98),
];

/// Batches before the first that counts.
const WARM_UP: u32 = 2;

fn main() -> Result<ExitCode> {
    let mut last = CpuSet::new();
    last.set(std::thread::available_parallelism()?.get() - 1)?;
    sched_setaffinity(Pid::from_raw(0), &last).context("stay on one processor")?;
    let (rounds, batches) = (number("ROUNDS", 15)?, number("BATCHES", 30)?);
    let mut cases = worlds::targets();
    if asked("--worst") {
        cases.extend(worlds::worst());
    }
    let mut missed = 0;
    for variant in chosen("VARIANTS", &Variant::ALL)? {
        let mut node = Node::new(variant)?;
        for family in chosen("FAMILIES", &Family::ALL)? {
            println!(
                "\n== iptables-{variant}, {family}: {rounds} rounds of {} cases",
                cases.len()
            );
            let figures = measure(&mut node, family, &cases, (rounds, batches))?;
            print(&cases, &figures);
            missed += compare(&cases, &figures);
        }
    }
    println!("\n{missed} targets missed");
    Ok(if asked("--check") && missed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn asked(flag: &str) -> bool {
    env::args().any(|argument| argument == flag)
}

fn number(name: &str, default: u32) -> Result<u32> {
    let name = format!("RINGFENCE_BENCH_{name}");
    match env::var(&name) {
        Err(_) => Ok(default),
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name}={text}: give a whole number")),
    }
}

fn chosen<T: Copy + ToString>(name: &str, all: &[T]) -> Result<Vec<T>> {
    let name = format!("RINGFENCE_BENCH_{name}");
    let Ok(text) = env::var(&name) else {
        return Ok(all.to_vec());
    };
    let chosen: Vec<T> = all
        .iter()
        .filter(|one| text.split(',').any(|word| word == one.to_string()))
        .copied()
        .collect();
    if chosen.len() != text.split(',').count() {
        let known: Vec<_> = all.iter().map(T::to_string).collect();
        bail!("{name}={text}: {} are known", known.join(" and "));
    }
    Ok(chosen)
}

/// The costs of every load in every case, round by round.
type Figures = Vec<[Vec<f64>; Load::ALL.len()]>;

fn measure(
    node: &mut Node,
    family: Family,
    cases: &[Case],
    (rounds, batches): (u32, u32),
) -> Result<Figures> {
    node.enforce(None)?;
    let client = Client::start(&node.lab, family)?;
    let mut figures: Figures = vec![Default::default(); cases.len()];
    for round in 0..rounds {
        eprintln!("{family}: round {} of {rounds}", round + 1);
        for turn in 0..cases.len() {
            // Each case has every place in the order, so that a drift hits them all.
            let place = (turn + round as usize) % cases.len();
            let case = &cases[place];
            let took = node.enforce(case.rules.as_ref()).with_context(|| case.name)?;
            if round == 0 {
                println!(
                    "{:45} {} in {:.0} ms",
                    case.name,
                    worlds::size(case),
                    took.as_secs_f64() * 1e3
                );
            }
            let costs =
                node.lab.pods[usize::from(worlds::CLIENT)].inside(|| one_turn(&client, case, batches))?;
            for (load, cost) in figures[place].iter_mut().zip(costs.with_context(|| case.name)?) {
                load.push(cost);
            }
        }
    }
    Ok(figures)
}

fn one_turn(client: &Client, case: &Case, batches: u32) -> Result<Vec<f64>> {
    client.verify(case.rules.is_some())?;
    let measured = Load::ALL.into_iter().map(|load| {
        client.measure(load, WARM_UP)?;
        client.measure(load, batches)
    });
    measured.collect()
}

fn print(cases: &[Case], figures: &Figures) {
    println!(
        "{:45} {:>13} {:>13} {:>9}",
        "", "connections/s", "round trips/s", "GB/s"
    );
    for (case, costs) in cases.iter().zip(figures) {
        let [connections, round_trips, chunks] =
            costs.each_ref().map(|costs| 1e6 / quartiles(costs.clone())[1]);
        let throughput = chunks * load::CHUNK as f64 / 1e9;
        println!(
            "{:45} {connections:13.0} {round_trips:13.0} {throughput:9.2}",
            case.name
        );
    }
}

/// Prints each target and how it stands. Returns how many are missed.
fn compare(cases: &[Case], figures: &Figures) -> usize {
    let costs = |name: &str, load: Load| {
        let place = cases.iter().position(|case| case.name == name);
        place.map_or(&[][..], |place| &figures[place][load as usize])
    };
    let mut missed = 0;
    for (subject, baseline, load, wanted) in TARGETS {
        let ratio = Ratio::of(costs(subject, load), costs(baseline, load));
        let met = ratio.median() >= wanted;
        missed += usize::from(!met);
        let verdict = if met { "ok" } else { "MISSED" };
        println!(
            "{:11} {subject:30} / {baseline:22} {ratio}  wanted {wanted:.2}  {verdict}",
            load.name()
        );
    }
    for case in cases
        .iter()
        .filter(|case| TARGETS.iter().all(|target| target.0 != case.name) && case.name != NONE)
    {
        for load in Load::ALL {
            let ratio = Ratio::of(costs(case.name, load), costs(NONE, load));
            println!("{:11} {:53} / none {ratio}", load.name(), case.name);
        }
    }
    missed
}
