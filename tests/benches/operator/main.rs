//! What the operator costs in a large cluster: `cargo bench -p ringfence-tests --bench operator`.
//!
//! A real API server without nodes, filled with namespaces that each deny everything, their pods, Services and grants. The
//! operator runs as a process of its own. Measured from outside: how long it takes from nothing to all Ready, with the API
//! server's own counts of requests; how long one change takes from the request to the policy that it leads to, and what it
//! costs the operator; memory; and what is written when nothing changes.
//!
//! The same is measured in clusters of a hundredth and a tenth of the size, each with an API server and an operator of its own, so
//! that the ratios show what the size costs. A third of the changes are of a Service that two grants are about.
//!
//! `RINGFENCE_BENCH_NAMESPACES`, `_CHANGES` and `_SECONDS` set the size. Everything else follows: 10 pods, 5 Services and 5
//! ServiceAccesses for each namespace.

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod counts;
mod operator;
mod ready;

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use changes::Changes;
use common::api::connect;
use common::{namespaces, number};
use counts::Counts;
use kube::Client;
use operator::Operator;
use ringfence_tests::kube_objects::output;
use ringfence_tests::source;
use ringfence_tests::testbed::{ApiServer, Console, Progress, step};
use tokio::runtime::Runtime;

/// How much is measured.
struct Size {
    namespaces: usize,
    changes: usize,
    idle: Duration,
}

/// What was measured in a cluster of one size.
struct Measured {
    namespaces: usize,
    cold_start: Duration,
    policies: usize,
    writes: u64,
    changes: Changes,
    memory: f64,
    idle_writes: u64,
}

fn main() -> Result<()> {
    // The operator is a process of its own, and this program is it, too.
    if env::args().nth(1).as_deref() == Some(operator::ROLE) {
        return operator::run();
    }
    let size = Size {
        namespaces: number("NAMESPACES", 1000)?,
        changes: number("CHANGES", 200)?,
        idle: Duration::from_secs(number("SECONDS", 30)?),
    };
    let console = Console::default();
    let mut all = Vec::new();
    for part in [100, 10, 1] {
        let namespaces = (size.namespaces / part).max(1);
        println!("\n== {namespaces} namespaces");
        all.push(measure(namespaces, &size, &console)?);
    }
    summary(&all);
    Ok(())
}

/// An API server that knows our kinds.
fn server() -> Result<ApiServer> {
    let server = ApiServer::start()?;
    server.define(&source::root().join("config/crd"))?;
    output(&mut server.kubectl(["apply", "-k", &source::path("config/admission")]))?;
    output(&mut server.kubectl(["create", "namespace", operator::NAMESPACE]))?;
    Ok(server)
}

fn measure(count: usize, size: &Size, progress: &dyn Progress) -> Result<Measured> {
    let server = step(progress, "start an API server", server)?;
    let runtime = Runtime::new().context("start a runtime")?;
    let client = runtime.block_on(connect(&server.kubeconfig()))?;
    let what = format!("fill it: {count} namespaces, {} pods", count * namespaces::PODS);
    step(progress, &what, || {
        runtime.block_on(namespaces::fill(&client, count))
    })?;
    let pace = step(progress, "see how fast the API server writes", || {
        runtime.block_on(namespaces::pace(&client, count))
    })?;

    let before = runtime.block_on(Counts::read(&client))?;
    let started = Instant::now();
    let operator = Operator::start(&server.kubeconfig())?;
    let reached = step(progress, "start the operator, until all is Ready", || {
        runtime.block_on(ready::wait(&client, count))
    })?;
    let cold_start = started.elapsed();
    let after = runtime.block_on(Counts::read(&client))?;
    let (ready, all) = reached.ready;
    println!(
        "cold start: {ready} of {all} Ready after {:.1} s, {} policies (target: all after 60 s)",
        cold_start.as_secs_f64(),
        reached.policies
    );
    let spent = after.since(&before);
    spent.print();
    let rate = whole(spent.writes()) / cold_start.as_secs_f64();
    println!(
        "written: {rate:.0} a second; creating NetworkPolicies and nothing else, {} at once, the API server did {pace:.0} a second (ratio {:.2})",
        common::api::AT_ONCE,
        rate / pace
    );
    println!("CPU of the operator: {:.1} s", operator.cpu()?.as_secs_f64());

    let what = format!("{} changes, one after the other", size.changes);
    let changes = step(progress, &what, || {
        runtime.block_on(changes::make(&client, &operator, count, size.changes))
    })?;
    println!(
        "one change, request to policy, ms: {} (targets 100, 500)",
        changes.latency
    );
    println!("CPU of one change, ms: {:.1}", changes.cpu);
    let idle_writes = idle(&runtime, &client, &operator, size.idle, progress)?;
    let memory = operator.memory()?;
    println!("resident memory at most, MB: {memory:.0} (target 250)");
    Ok(Measured {
        namespaces: count,
        cold_start,
        policies: reached.policies,
        writes: spent.writes(),
        changes,
        memory,
        idle_writes,
    })
}

/// Writes while nothing changes.
fn idle(
    runtime: &Runtime,
    client: &Client,
    operator: &Operator,
    time: Duration,
    progress: &dyn Progress,
) -> Result<u64> {
    // The last change's statuses are still on their way.
    operator.settle()?;
    let (before, cpu) = (runtime.block_on(Counts::read(client))?, operator.cpu()?);
    let what = format!("nothing for {} s", time.as_secs());
    step(progress, &what, || {
        std::thread::sleep(time);
        Ok(())
    })?;
    let spent = runtime.block_on(Counts::read(client))?.since(&before);
    let share = (operator.cpu()? - cpu).as_secs_f64() / time.as_secs_f64() * 100.0;
    println!(
        "writes in {} s without a change, other than of the Lease: {} (target 0); CPU {share:.2} % of a core",
        time.as_secs(),
        spent.writes()
    );
    Ok(spent.writes())
}

fn summary(all: &[Measured]) {
    println!(
        "\nnamespaces   pods  grants  policies  writes  all Ready, s  change p50, ms    p99  CPU, ms  memory, MB  idle writes"
    );
    for one in all {
        println!(
            "{:>10}  {:>5}  {:>6}  {:>8}  {:>6}  {:>12.1}  {:>14.0}  {:>5.0}  {:>7.1}  {:>10.0}  {:>11}",
            one.namespaces,
            one.namespaces * namespaces::PODS,
            one.namespaces * namespaces::SERVICES,
            one.policies,
            one.writes,
            one.cold_start.as_secs_f64(),
            one.changes.latency.quantile(500),
            one.changes.latency.quantile(990),
            one.changes.cpu,
            one.memory,
            one.idle_writes,
        );
    }
    if let [first, .., last] = all {
        println!(
            "\n{} times as large, a change takes {:.2} of the time and {:.2} of the CPU",
            last.namespaces / first.namespaces,
            last.changes.latency.quantile(500) / first.changes.latency.quantile(500),
            last.changes.cpu / first.changes.cpu
        );
    }
}

/// A count as a figure.
fn whole(count: u64) -> f64 {
    // No count of requests here comes near to what the conversion can't hold.
    u32::try_from(count).map_or(f64::NAN, f64::from)
}
