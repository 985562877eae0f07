//! The upstream NetworkPolicy suite against the enforcer, on real clusters; each of its specs counts as a test. Filter by
//! a part of a spec's text: `cargo test -p ringfence-tests --test upstream -- "endport"`.
//!
//! Ordinarily one run on a dual-stack cluster; with `RINGFENCE_LONG` three in a row with IPv4 alone, and one for each
//! other kind of cluster. `RINGFENCE_UPSTREAM=legacy,nftables` names the kinds to run.
//!
//! After each, Ringfence is uninstalled, and nothing of it may be left on a node.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use ringfence_tests::deploy;
use ringfence_tests::kube_objects::{kubectl, output};
use ringfence_tests::source;
use ringfence_tests::testbed::{Cluster, ClusterOptions, Console, IpFamily, Iptables, Node, ProxyMode};
use ringfence_tests::upstream::{self, Report};

const CLUSTER: &str = "upstream";
/// How long an uninstall may take until nothing is left.
const UNINSTALL: Duration = Duration::from_secs(60);

/// A kind of cluster, and how often in a row the suite runs on it.
struct Run {
    name: &'static str,
    ip_family: IpFamily,
    proxy_mode: ProxyMode,
    iptables: Iptables,
    times: usize,
}

const DUAL: Run = Run {
    name: "dual",
    ip_family: IpFamily::Dual,
    proxy_mode: ProxyMode::Iptables,
    iptables: Iptables::Nft,
    times: 1,
};

const OTHERS: [Run; 3] = [
    Run {
        name: "ipv4",
        ip_family: IpFamily::Ipv4,
        proxy_mode: ProxyMode::Iptables,
        iptables: Iptables::Nft,
        times: 3,
    },
    Run {
        name: "nftables",
        ip_family: IpFamily::Dual,
        proxy_mode: ProxyMode::Nftables,
        iptables: Iptables::Nft,
        times: 1,
    },
    Run {
        name: "legacy",
        ip_family: IpFamily::Dual,
        proxy_mode: ProxyMode::Iptables,
        iptables: Iptables::Legacy,
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
    let runs = chosen()?;
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

/// The kinds of clusters to run on.
fn chosen() -> Result<Vec<Run>> {
    if let Ok(names) = std::env::var("RINGFENCE_UPSTREAM") {
        let all = || [DUAL].into_iter().chain(OTHERS);
        let named = names.split(',').map(|name| {
            let known = all().find(|run| run.name == name);
            known.with_context(|| format!("RINGFENCE_UPSTREAM={names}: there is no kind {name:?}"))
        });
        return named.collect();
    }
    let mut runs = vec![DUAL];
    if std::env::var_os("RINGFENCE_LONG").is_some() {
        runs.extend(OTHERS);
    }
    Ok(runs)
}

/// Runs the suite so often; a trial for each spec and time.
fn run_on_cluster(run: &Run, only: Option<&str>) -> Result<Vec<Trial>> {
    let options = ClusterOptions {
        ip_family: run.ip_family,
        proxy_mode: run.proxy_mode,
        iptables: run.iptables,
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
    let left = outcome.and_then(|()| uninstall(&cluster));
    Cluster::remove(CLUSTER, &progress)?;
    let left = left?;
    let name = format!("{}::nothing_is_left_on_a_node_after_an_uninstall", run.name);
    trials.push(Trial::test(name, move || {
        if left.is_empty() {
            return Ok(());
        }
        Err(Failed::from(left.join("\n")))
    }));
    Ok(trials)
}

/// Uninstalls Ringfence. Returns what of it is left on nodes after a while.
fn uninstall(cluster: &Cluster) -> Result<Vec<String>> {
    let config = source::path("config/default");
    kubectl(cluster, &["delete", "-k", &config, "--timeout=120s"])?;
    let started = Instant::now();
    loop {
        let mut left = Vec::new();
        for node in cluster.nodes() {
            left.extend(remains(&node)?);
        }
        if left.is_empty() || started.elapsed() > UNINSTALL {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Rules and sets of ours on a node, in both variants of iptables.
fn remains(node: &Node) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for words in [
        &["iptables-nft-save"][..],
        &["ip6tables-nft-save"],
        &["iptables-legacy-save"],
        &["ip6tables-legacy-save"],
        &["ipset", "list", "-name"],
    ] {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", node.netns.display())).args(words);
        let text = output(&mut command)?;
        let ours = text.lines().filter(|line| line.contains("RINGF"));
        left.extend(ours.map(|line| format!("{}: {}: {line}", node.name, words[0])));
    }
    Ok(left)
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
