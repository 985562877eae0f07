//! Every scenario of `examples/` on a real cluster of two nodes and both address families: what its transcript says, what
//! the policy engine says and what packets do are the same. Filter by id as with any test:
//! `cargo test -p ringfence-tests --test scenarios -- S2.5`.

mod services;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use ringfence_tests::deploy;
use ringfence_tests::kube_objects::kubectl;
use ringfence_tests::probe::all_at_once;
use ringfence_tests::scenario::{self, Scenario, Tally};
use ringfence_tests::testbed::{Cluster, ClusterOptions, Console, IpFamily};

const CLUSTER: &str = "scenarios";

/// Held by the scenario that uses what a cluster has only one of.
static SINGLETON: Mutex<()> = Mutex::new(());

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // Scenarios have namespaces of their own and mostly wait for packets that never come.
    arguments.test_threads.get_or_insert(4);
    let scenarios = scenario::all()?;
    if arguments.list {
        let names = scenarios.iter().map(Scenario::test_name);
        let names = names.chain([services::NAME.to_owned()]);
        let trials = names.map(|name| Trial::test(name, || Ok(())));
        return Ok(libtest_mimic::run(&arguments, trials.collect()).exit_code());
    }
    let options = ClusterOptions {
        ip_family: IpFamily::Dual,
        ..ClusterOptions::named(CLUSTER)?
    };
    let cluster = Arc::new(deploy::bring_up(&options, &Console::default())?);
    let outcome = replay_all(&arguments, &cluster, scenarios);
    Cluster::remove(CLUSTER, &Console::default())?;
    outcome
}

fn replay_all(arguments: &Arguments, cluster: &Arc<Cluster>, scenarios: Vec<Scenario>) -> Result<ExitCode> {
    let chosen: Vec<Scenario> = scenarios
        .into_iter()
        .filter(|scenario| is_chosen(arguments, &scenario.test_name()))
        .collect();
    let with_services = is_chosen(arguments, services::NAME);
    // All pods start together, before the first scenario needs its own.
    for applied in all_at_once(&chosen, |scenario| create_pods(cluster, scenario)) {
        applied?;
    }
    if with_services {
        patiently("the fixture of Services", || services::prepare(cluster))?;
    }
    let total = Arc::new(Mutex::new(Tally::default()));
    let trials = chosen.into_iter().map(|scenario| {
        let (cluster, total) = (Arc::clone(cluster), Arc::clone(&total));
        Trial::test(scenario.test_name(), move || {
            let tally = replay(&cluster, &scenario).map_err(|error| Failed::from(format!("{error:#}")))?;
            *total.lock().map_err(|_| "another scenario panicked")? += tally;
            Ok(())
        })
    });
    let calls = with_services.then(|| {
        let cluster = Arc::clone(cluster);
        Trial::test(services::NAME, move || {
            services::calls_go_as_foretold(&cluster).map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    let conclusion = libtest_mimic::run(arguments, calls.into_iter().chain(trials).collect());
    let total = *total.lock().map_err(|_| anyhow::anyhow!("a scenario panicked"))?;
    println!(
        "{} connections as written and as foretold; {} within a node, {} across nodes",
        total.connections, total.within_a_node, total.across_nodes
    );
    if !conclusion.has_failed() && arguments.filter.is_none() {
        ensure!(
            total.within_a_node > 0 && total.across_nodes > 0,
            "the scheduler left one kind of path untried"
        );
    }
    Ok(conclusion.exit_code())
}

fn replay(cluster: &Cluster, scenario: &Scenario) -> Result<Tally> {
    let _alone = match scenario.has_a_singleton()? {
        // Whoever failed while holding it has told so.
        true => Some(SINGLETON.lock().unwrap_or_else(PoisonError::into_inner)),
        false => None,
    };
    scenario::replay(cluster, scenario)
}

fn is_chosen(arguments: &Arguments, name: &str) -> bool {
    let matches = |filter: &String| match arguments.exact {
        true => name == filter,
        false => name.contains(filter.as_str()),
    };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}

fn create_pods(cluster: &Cluster, scenario: &Scenario) -> Result<()> {
    let pods = scenario.folder.join("pods.yaml").display().to_string();
    patiently(&scenario.id, || {
        kubectl(cluster, &["apply", "-f", &pods]).map(drop)
    })
}

/// The first pods of a namespace may be refused until the cluster has made its ServiceAccount: tried again, less and less
/// often, for it is what all these attempts together keep the cluster from.
fn patiently(what: &str, create: impl Fn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(180);
    let mut pause = Duration::from_millis(500);
    loop {
        match create() {
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("create the pods of {what}")));
            }
            Err(_) => std::thread::sleep(pause),
            Ok(()) => return Ok(()),
        }
        pause = (pause * 2).min(Duration::from_secs(8));
    }
}
