//! Replaying a scenario on a cluster.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ringfence_policy::World;

use super::attempt::{Attempt, Planner};
use super::live::read_world;
use super::outside::Outside;
use super::told::untold;
use super::{Scenario, Step};
use crate::kube_objects::{kubectl, output, with_account};
use crate::probe;
use crate::testbed::Cluster;

/// How long a state may take to come about. Far above what it takes: only a failure waits so long.
const DEADLINE: Duration = Duration::from_secs(90);

/// How long an attempt waits for an answer before it counts as closed: below the second after which TCP sends its first
/// packet again, so that a packet that was dropped once is not forgiven.
const TIMEOUT: Duration = Duration::from_millis(900);

/// How many differences a failure lists.
const LISTED: usize = 12;

/// What a replay tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections that were as they must be, of the last look after each step.
    pub connections: usize,
    /// Of these, between pods of one node.
    pub within_a_node: usize,
    /// Of these, between pods of different nodes.
    pub across_nodes: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.within_a_node += other.within_a_node;
        self.across_nodes += other.across_nodes;
    }
}

/// Runs a scenario's commands and looks after each step whether everybody reaches exactly whom they should: as the
/// transcript says, as the policy engine says, and as packets do.
///
/// # Errors
/// When a command fails, or a state does not come about; the message lists the connections and why the engine sees them
/// as it does.
pub fn replay(cluster: &Cluster, scenario: &Scenario) -> Result<Tally> {
    let outside = Outside::of_steps(cluster, &scenario.steps)?;
    let mut tally = Tally::default();
    for (index, step) in scenario.steps.iter().enumerate() {
        run_commands(cluster, scenario, step)?;
        if index == 0 {
            wait_for_pods(cluster, scenario)?;
        }
        tally += settle(cluster, scenario, step, &outside)?;
    }
    Ok(tally)
}

fn run_commands(cluster: &Cluster, scenario: &Scenario, step: &Step) -> Result<()> {
    for arguments in &step.commands {
        with_account(|| output(cluster.kubectl(arguments).current_dir(&scenario.folder)))?;
    }
    Ok(())
}

fn wait_for_pods(cluster: &Cluster, scenario: &Scenario) -> Result<()> {
    let namespaces = kubectl(cluster, &["get", "namespaces", "-o", "name"])?;
    let names = namespaces
        .lines()
        .filter_map(|line| line.strip_prefix("namespace/"));
    for namespace in names.filter(|name| scenario.owns(name)) {
        let wait = ["wait", "--for=condition=Ready", "pods", "--all", "--timeout=600s"];
        kubectl(cluster, &[&["-n", namespace], &wait[..]].concat())?;
    }
    Ok(())
}

/// Looks until everything is as it should be, or the deadline passes.
fn settle(cluster: &Cluster, scenario: &Scenario, step: &Step, outside: &Outside) -> Result<Tally> {
    let started = Instant::now();
    loop {
        let outcome = look(cluster, scenario, step, outside);
        let late = started.elapsed() > DEADLINE;
        match outcome {
            Ok(Look::AsItShould(tally)) => return Ok(tally),
            Ok(Look::Different(lines)) if late => {
                let commands: Vec<String> = step.commands.iter().map(|words| words.join(" ")).collect();
                bail!(
                    "{} differences after `kubectl {}`:\n{}",
                    lines.len(),
                    commands.join("`, `kubectl "),
                    lines[..lines.len().min(LISTED)].join("\n")
                );
            }
            // A pod that a command made has no address at first.
            Err(error) if late => return Err(error),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

enum Look {
    AsItShould(Tally),
    Different(Vec<String>),
}

fn look(cluster: &Cluster, scenario: &Scenario, step: &Step, outside: &Outside) -> Result<Look> {
    let world = read_world(cluster)?;
    // First the few that the transcript names: while these differ, the many others need not be tried.
    let named = plan_named(cluster, &world, step, outside)?;
    let lines = differences(&named)?;
    if !lines.is_empty() {
        return Ok(Look::Different(lines));
    }
    let lines = untold(cluster, &step.told)?;
    if !lines.is_empty() {
        return Ok(Look::Different(lines));
    }
    let mut planner = Planner::new(cluster, &world, outside);
    let everybody = planner.everybody(|namespace| scenario.owns(namespace))?;
    let lines = differences(&everybody)?;
    if !lines.is_empty() {
        return Ok(Look::Different(lines));
    }
    let attempts = || named.iter().chain(&everybody);
    Ok(Look::AsItShould(Tally {
        connections: attempts().count(),
        within_a_node: attempts()
            .filter(|attempt| attempt.same_node == Some(true))
            .count(),
        across_nodes: attempts()
            .filter(|attempt| attempt.same_node == Some(false))
            .count(),
    }))
}

fn plan_named(cluster: &Cluster, world: &World, step: &Step, outside: &Outside) -> Result<Vec<Attempt>> {
    let mut planner = Planner::new(cluster, world, outside);
    let mut attempts = Vec::new();
    for expectation in &step.expectations {
        attempts.extend(planner.expected(expectation)?);
    }
    Ok(attempts)
}

/// Tries all attempts; gives a line for each that was not as written or not as foretold.
fn differences(attempts: &[Attempt]) -> Result<Vec<String>> {
    let seen = probe::all_at_once(attempts, |attempt| attempt.is_open(TIMEOUT));
    let mut lines = Vec::new();
    for (attempt, seen) in attempts.iter().zip(seen) {
        let seen = seen?;
        let written = attempt.written.unwrap_or(seen);
        if written != seen || attempt.foretold != seen {
            let word = |open| if open { "open" } else { "closed" };
            let said = attempt.written.map(|open| format!(", written {}", word(open)));
            lines.push(format!(
                "{}: seen {}, foretold {}{}\n    {}",
                attempt.label,
                word(seen),
                word(attempt.foretold),
                said.unwrap_or_default(),
                attempt.why.trim_end().replace('\n', "\n    ")
            ));
        }
    }
    Ok(lines)
}
