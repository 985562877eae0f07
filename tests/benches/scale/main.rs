//! How fast a change reaches the packets in a large cluster: `cargo bench -p ringfence-tests --bench scale`.
//!
//! A real two-node cluster with the enforcer as users install it, 10,000 pods of other nodes and 1,000 policies in the
//! API server. Measured from outside: from the start of `kubectl label` to the first packet that meets the new rules.
//!
//! ```text
//!   kubectl label ─► API server ─► watch ─► enforcer ─► kernel        every few milliseconds a new UDP flow
//!   └───────────────────────── measured ───────────────────┘           from the client's pod to the server's
//! ```
//!
//! The same number of changes is made in a cluster with the few pods and policies of the measurement alone, before the
//! fill, so that the ratio shows what the size of the cluster costs; the machine's noise is in both.
//!
//! `RINGFENCE_BENCH_PODS`, `_POLICIES`, `_CHANGES` and `_SECONDS` set the size; `_KEEP` leaves the cluster up.

#[path = "../common/mod.rs"]
mod common;
mod enforcer;
mod fill;
mod path;

use std::env;
use std::time::Duration;

use anyhow::Result;
use common::figures::{Figures, line};
use common::number;
use enforcer::Enforcers;
use fill::Api;
use path::{Change, Lab};

use ringfence_tests::testbed::{Cluster, ClusterOptions, Console, Progress, step};

const CLUSTER: &str = "scale";

/// What is measured, and how much of it.
struct Size {
    pods: usize,
    policies: usize,
    changes: usize,
    storm: Duration,
}

impl Size {
    fn from_env() -> Result<Self> {
        Ok(Self {
            pods: number("PODS", 10_000)?,
            policies: number("POLICIES", 1_000)?,
            changes: number("CHANGES", 100)?,
            storm: Duration::from_secs(number("SECONDS", 60)?),
        })
    }
}

fn main() -> Result<()> {
    // Cargo passes its own flags; a harness of another kind would read them.
    let size = Size::from_env()?;
    let console = Console::default();
    let options = ClusterOptions::named(CLUSTER)?;
    let cluster = ringfence_tests::deploy::bring_up(&options, &console)?;
    let measured = measure(&cluster, &size, &console);
    if env::var_os("RINGFENCE_BENCH_KEEP").is_none() {
        Cluster::remove(CLUSTER, &console)?;
    }
    measured
}

fn measure(cluster: &Cluster, size: &Size, progress: &dyn Progress) -> Result<()> {
    let api = Api::connect(cluster)?;
    let lab = step(progress, "start the pods that are measured", || {
        Lab::start(cluster)
    })?;
    let enforcers = Enforcers::find(cluster)?;
    let few = step(progress, "change labels in a small cluster", || {
        changes(&lab, &enforcers, size)
    })?;
    step(
        progress,
        &format!("fill the cluster: {} pods, {} policies", size.pods, size.policies),
        || api.fill(size.pods, size.policies),
    )?;
    enforcers.settle()?;
    let many = step(progress, "change labels in a large cluster", || {
        changes(&lab, &enforcers, size)
    })?;
    report("label of the client", &few.client, &many.client);
    report("label of the server", &few.server, &many.server);
    line("kubectl alone", &few.kubectl, &many.kubectl, "ms");
    line("CPU per change, both nodes", &few.cpu, &many.cpu, "ms");
    println!("\ntargets: p50 150 ms, p99 300 ms, CPU of one change 20 ms");

    let cold = step(progress, "kill the enforcers and let them start", || {
        enforcers.restart(10)
    })?;
    println!("\ncold start to in sync, ms: {cold} (target 2,000)");
    println!(
        "resident memory, MB, most of both nodes: {:.0} (target 120)",
        enforcers.memory()?
    );

    let storm = step(
        progress,
        &format!("100 pod changes a second for {} s", size.storm.as_secs()),
        || storm(&api, &lab, &enforcers, size),
    )?;
    println!("\n100 pod changes a second for {} s:", size.storm.as_secs());
    println!("  made: {} ({:.0} a second)", storm.made, storm.rate);
    println!("  a label change meanwhile, ms: {}", storm.latency);
    println!("  CPU of an enforcer: {:.1} % of a core", storm.cpu);
    let idle = step(progress, "nothing for 30 s", || {
        enforcers.cpu_share(Duration::from_secs(30))
    })?;
    println!("\nidle CPU of an enforcer: {idle:.2} % of a core");
    Ok(())
}

fn report(what: &str, few: &Figures, many: &Figures) {
    line(&format!("{what}, kubectl to packets"), few, many, "ms");
}

/// What some changes took.
struct Changes {
    client: Figures,
    server: Figures,
    /// What kubectl took in all of them.
    kubectl: Figures,
    cpu: Figures,
}

fn changes(lab: &Lab, enforcers: &Enforcers, size: &Size) -> Result<Changes> {
    let before = enforcers.cpu()?;
    let (mut client, mut server) = (Vec::new(), Vec::new());
    for _ in 0..size.changes / 2 {
        client.extend([lab.client_may(true)?, lab.client_may(false)?]);
    }
    for _ in 0..size.changes / 2 {
        server.extend([lab.server_is_open(true)?, lab.server_is_open(false)?]);
    }
    let spent = enforcers.cpu()? - before;
    let made = f64::from(u32::try_from(client.len() + server.len())?);
    let kubectl = client.iter().chain(&server).map(|change| change.kubectl);
    Ok(Changes {
        client: shown(&client),
        server: shown(&server),
        kubectl: Figures::of(kubectl.collect()),
        cpu: Figures::one(spent.as_secs_f64() * 1000.0 / made),
    })
}

fn shown(changes: &[Change]) -> Figures {
    Figures::of(changes.iter().map(|change| change.shown).collect())
}

/// What a storm of changes did.
struct Storm {
    made: usize,
    rate: f64,
    latency: Figures,
    cpu: f64,
}

fn storm(api: &Api, lab: &Lab, enforcers: &Enforcers, size: &Size) -> Result<Storm> {
    let before = enforcers.cpu()?;
    let (made, latency) = std::thread::scope(|scope| {
        let making = scope.spawn(|| api.change_pods(size.pods, 100, size.storm));
        let mut latency = Vec::new();
        while !making.is_finished() {
            latency.extend([lab.client_may(true)?, lab.client_may(false)?]);
        }
        let made = making.join().map_err(|_| anyhow::anyhow!("the storm failed"))??;
        Ok::<_, anyhow::Error>((made, latency))
    })?;
    let spent = enforcers.cpu()? - before;
    let seconds = size.storm.as_secs_f64();
    Ok(Storm {
        made,
        rate: f64::from(u32::try_from(made)?) / seconds,
        latency: shown(&latency),
        cpu: spent.as_secs_f64() / seconds * 100.0 / 2.0,
    })
}
