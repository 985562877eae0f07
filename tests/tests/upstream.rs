//! The upstream NetworkPolicy suite against the enforcer, on real clusters; each of its specs counts as a test. Filter by
//! a part of a spec's text: `cargo test -p ringfence-tests --test upstream -- "endport"`.
//!
//! Ordinarily one run on a dual-stack cluster; with `RINGFENCE_LONG` three in a row with IPv4 alone, and one for each
//! other kind of cluster.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use ringfence_tests::deploy;
use ringfence_tests::testbed::{Cluster, ClusterOptions, Console, IpFamily, ProxyMode};
use ringfence_tests::upstream::{self, Report};

const CLUSTER: &str = "upstream";

/// A kind of cluster, and how often in a row the suite runs on it.
struct Run {
    name: &'static str,
    ip_family: IpFamily,
    proxy_mode: ProxyMode,
    times: usize,
}

const DUAL: Run = Run {
    name: "dual",
    ip_family: IpFamily::Dual,
    proxy_mode: ProxyMode::Iptables,
    times: 1,
};

const OTHERS: [Run; 2] = [
    Run {
        name: "ipv4",
        ip_family: IpFamily::Ipv4,
        proxy_mode: ProxyMode::Iptables,
        times: 3,
    },
    Run {
        name: "nftables",
        ip_family: IpFamily::Dual,
        proxy_mode: ProxyMode::Nftables,
        times: 1,
    },
];

fn main() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    if arguments.list {
        // The suite's specs are known when it has run.
        println!("0 tests, 0 benchmarks");
        return Ok(ExitCode::SUCCESS);
    }
    let mut runs = vec![DUAL];
    if std::env::var_os("RINGFENCE_LONG").is_some() {
        runs.extend(OTHERS);
    }
    let mut trials = Vec::new();
    for run in &runs {
        trials.extend(run_on_cluster(run, arguments.filter.as_deref())?);
    }
    // What was filtered for is what has run.
    let unfiltered = Arguments {
        filter: None,
        ..arguments
    };
    Ok(libtest_mimic::run(&unfiltered, trials).exit_code())
}

/// Runs the suite so often; a trial for each spec and time.
fn run_on_cluster(run: &Run, only: Option<&str>) -> Result<Vec<Trial>> {
    let options = ClusterOptions {
        ip_family: run.ip_family,
        proxy_mode: run.proxy_mode,
        ..ClusterOptions::named(CLUSTER)?
    };
    let progress = Console::default();
    let cluster = deploy::bring_up(&options, &progress)?;
    let mut trials = Vec::new();
    let outcome = (1..=run.times).try_for_each(|time| {
        let name = format!("{}-{time}", run.name);
        let report = upstream::run(&cluster, &name, only, &progress)?;
        trials.extend(as_trials(&name, report));
        Ok(())
    });
    Cluster::remove(CLUSTER, &progress)?;
    outcome.map(|()| trials)
}

fn as_trials(name: &str, report: Report) -> Vec<Trial> {
    let Report { specs, log } = report;
    let seconds: u64 = specs.iter().map(|spec| spec.took.as_secs()).sum();
    println!(
        "{name}: {} specs, {seconds} s of specs; the log is {}",
        specs.len(),
        log.display()
    );
    let trials = specs.into_iter().map(|spec| {
        let log = log.clone();
        Trial::test(format!("{name}::{}", spec.name), move || match spec.failure {
            None => Ok(()),
            Some(failure) => Err(Failed::from(format!("{failure}\nthe log is {}", log.display()))),
        })
    });
    trials.collect()
}
