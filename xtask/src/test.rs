//! `cargo xtask test`: every check, the cheap and likely ones to fail first.

use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use ringfence_tests::source;
use ringfence_tests::testbed::{self, Console};

use crate::fuzz;
use crate::stages::{Checks, Need, STAGES, Stage};

/// What to test, and how long.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Run storms, outages and idle periods at full length, as before a release. Takes hours.
    #[arg(long)]
    long: bool,
    /// Run only the stages whose name contains this.
    #[arg(long, value_name = "STAGE")]
    only: Option<String>,
    /// List the stages and stop.
    #[arg(long)]
    list: bool,
}

/// Tests counted so far.
#[derive(Default)]
struct Totals {
    passed: usize,
    failed: usize,
}

impl Totals {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; …`; any other line counts nothing.
    fn add(&mut self, line: &str) {
        let Some(result) = line.trim_start().strip_prefix("test result:") else {
            return;
        };
        let count = |word: &str| {
            let words: Vec<&str> = result.split_whitespace().collect();
            let at = words.iter().position(|w| w.trim_end_matches(';') == word)?;
            words.get(at.checked_sub(1)?)?.parse::<usize>().ok()
        };
        self.passed += count("passed").unwrap_or(0);
        self.failed += count("failed").unwrap_or(0);
    }
}

/// Runs the stages in order and stops after the first that fails.
pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    if args.list {
        for stage in STAGES {
            println!("{:<13} {}", stage.name, stage.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen: Vec<&Stage> = STAGES
        .iter()
        .filter(|s| {
            args.only
                .as_ref()
                .is_none_or(|only| s.name.contains(only.as_str()))
        })
        .collect();
    if chosen.is_empty() {
        bail!(
            "no stage is called `{}`: see `cargo xtask test --list`",
            args.only.as_deref().unwrap_or_default()
        );
    }
    let mut totals = Totals::default();
    let mut failed = None;
    for (index, stage) in chosen.iter().enumerate() {
        println!(
            "\n=== {}/{} {}: {}",
            index + 1,
            chosen.len(),
            stage.name,
            stage.about
        );
        let started = Instant::now();
        stage.needs.iter().try_for_each(|need| provide(*need))?;
        let ok = run_stage(stage, args.long, &mut totals)?;
        println!(
            "=== {} {} in {} s",
            stage.name,
            if ok { "passed" } else { "FAILED" },
            started.elapsed().as_secs()
        );
        if !ok {
            failed = Some(stage.name);
            break;
        }
    }
    // A stage without tests of its own (format, clippy) that fails is a failure too.
    if failed.is_some() && totals.failed == 0 {
        totals.failed = 1;
    }
    println!("\n{} passed, {} failed", totals.passed, totals.failed);
    match failed {
        Some(name) => bail!("stage {name} failed; run it alone with `cargo xtask test --only {name}`"),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Makes sure that the machine has what a stage needs; says so while it takes time.
fn provide(need: Need) -> Result<()> {
    let progress = Console::default();
    match need {
        Need::Packages => testbed::ensure_installed(testbed::FOR_CLUSTER, &progress),
        Need::Clock => testbed::ensure_installed(testbed::FOR_STORMS, &progress),
        Need::ApiServer => testbed::Binaries::ensure(testbed::API_SERVER_TOOLS, &progress).map(drop),
        Need::Cluster => testbed::Binaries::ensure(testbed::CLUSTER_TOOLS, &progress).map(drop),
        Need::Gitops => {
            testbed::ensure_installed(testbed::FOR_GITOPS, &progress)?;
            testbed::Binaries::ensure(testbed::GITOPS_TOOLS, &progress).map(drop)
        }
        Need::UpstreamSuite => testbed::Binaries::ensure(testbed::E2E_TOOLS, &progress).map(drop),
    }
}

fn run_stage(stage: &Stage, long: bool, totals: &mut Totals) -> Result<bool> {
    if let Checks::Fuzzers = stage.checks {
        return run_fuzzers(long, totals);
    }
    let mut passed = true;
    for arguments in stage.checks.command_lines() {
        passed &= run_cargo(&arguments, long, totals)?;
    }
    Ok(passed)
}

/// Seconds for each fuzzer.
const FUZZ: u64 = 30;
const FUZZ_LONG: u64 = 3600;

fn run_fuzzers(long: bool, totals: &mut Totals) -> Result<bool> {
    match fuzz::all(if long { FUZZ_LONG } else { FUZZ }) {
        Ok(fuzzers) => totals.passed += fuzzers,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(false);
        }
    }
    Ok(true)
}

fn run_cargo(arguments: &[&str], long: bool, totals: &mut Totals) -> Result<bool> {
    let mut command = source::cargo();
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stdin(Stdio::null());
    command.env("RUSTDOCFLAGS", "-D warnings");
    // Snapshots are compared, never rewritten, whoever runs the tests.
    command.env("INSTA_UPDATE", "no");
    if long {
        command
            .env("RINGFENCE_LONG", "1")
            .env("RINGFENCE_IDLE_SECONDS", "600");
    }
    let mut child = command.spawn().context("starting cargo")?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("reading cargo's output")?;
            println!("{line}");
            totals.add(&line);
        }
    }
    Ok(child.wait().context("waiting for cargo")?.success())
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn totals_add_up_what_cargo_prints() {
        let mut totals = Totals::default();
        totals.add(
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        totals.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        totals.add("test something ... ok");
        assert_eq!((totals.passed, totals.failed), (4, 2));
    }
}
