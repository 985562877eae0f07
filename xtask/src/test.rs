//! `cargo xtask test`: every check, the cheap and likely ones to fail first.

use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use ringfence_tests::source;
use ringfence_tests::testbed::{self, Console};

use crate::fuzz;

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

/// One stage: a command that passes or fails.
struct Stage {
    name: &'static str,
    /// What it shows.
    about: &'static str,
    /// What it needs on the machine, made before it starts so that its own time is that of the tests.
    needs: &'static [Need],
    checks: Checks,
}

/// How a stage checks.
enum Checks {
    /// By cargo with these arguments.
    Cargo(&'static [&'static str]),
    /// By the fuzzers.
    Fuzzers,
}

/// What a stage needs on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The Debian packages of a node: iptables, ipset and so on.
    Packages,
    /// What sets the clock of one program.
    Clock,
    /// etcd, the API server and kubectl, built from their sources.
    ApiServer,
    /// Everything that a cluster runs, built from its sources.
    Cluster,
    /// Argo CD, built from its sources, and what it needs beside it.
    Gitops,
    /// The upstream end-to-end suite, built from its sources.
    UpstreamSuite,
}

/// Cheapest first, so that a mistake is told as early as it can be.
const STAGES: &[Stage] = &[
    Stage {
        name: "format",
        about: "rustfmt agrees",
        needs: &[],
        checks: Checks::Cargo(&["fmt", "--all", "--check"]),
    },
    Stage {
        name: "clippy",
        about: "no lint warns",
        needs: &[],
        checks: Checks::Cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    },
    Stage {
        name: "clippy-suites",
        about: "no lint warns in the suites that run only by name",
        needs: &[],
        checks: Checks::Cargo(&[
            "clippy",
            "--quiet",
            "-p",
            "ringfence-enforcer",
            "-p",
            "ringfence-tests",
            "--test",
            "storm",
            "--test",
            "testbed_cluster",
            "--test",
            "scenarios",
            "--test",
            "cluster",
            "--test",
            "gitops",
            "--test",
            "upstream",
            "--",
            "-D",
            "warnings",
        ]),
    },
    Stage {
        name: "docs",
        about: "the documentation builds without a warning",
        needs: &[],
        checks: Checks::Cargo(&["doc", "--workspace", "--no-deps", "--quiet"]),
    },
    Stage {
        name: "unit",
        about: "pure logic: unit, property and snapshot tests, and the generated files",
        needs: &[],
        checks: Checks::Cargo(&[
            "test",
            "--workspace",
            "--exclude",
            "ringfence-tests",
            "--exclude",
            "ringfence-enforcer",
            "--no-fail-fast",
        ]),
    },
    Stage {
        name: "fuzz",
        about: "nothing that the fuzzers try makes the policy engine panic, or its readings differ",
        needs: &[],
        checks: Checks::Fuzzers,
    },
    Stage {
        name: "kernel",
        about: "the enforcer: its plans, and packets through the kernel in network namespaces",
        needs: &[Need::Packages],
        checks: Checks::Cargo(&["test", "-p", "ringfence-enforcer", "--no-fail-fast"]),
    },
    Stage {
        name: "api",
        about: "probes, the CRDs, the operator and what the documentation shows against a real API server",
        needs: &[Need::Packages, Need::ApiServer],
        checks: Checks::Cargo(&["test", "-p", "ringfence-tests", "--no-fail-fast"]),
    },
    Stage {
        name: "storm",
        about: "the enforcer's process between a real API server and real packets: changes, kills, outages, clocks",
        needs: &[Need::Packages, Need::Clock, Need::ApiServer],
        checks: Checks::Cargo(&[
            "test",
            "-p",
            "ringfence-enforcer",
            "--test",
            "storm",
            "--",
            "--test-threads=1",
        ]),
    },
    Stage {
        name: "testbed",
        about: "whole clusters: killed half way, in every family and proxy mode",
        needs: &[Need::Packages, Need::Cluster],
        checks: Checks::Cargo(&["test", "-p", "ringfence-tests", "--test", "testbed_cluster"]),
    },
    Stage {
        name: "scenarios",
        about: "every scenario of examples/ on a real cluster: as written, as foretold, as packets do",
        needs: &[Need::Packages, Need::Cluster],
        checks: Checks::Cargo(&["test", "-p", "ringfence-tests", "--test", "scenarios"]),
    },
    Stage {
        name: "cluster",
        about: "the product on a real cluster",
        needs: &[Need::Packages, Need::Cluster],
        checks: Checks::Cargo(&["test", "-p", "ringfence-tests", "--test", "cluster"]),
    },
    Stage {
        name: "gitops",
        about: "the product through Argo CD, from a Git repository, on a real cluster",
        needs: &[Need::Packages, Need::Cluster, Need::Gitops],
        checks: Checks::Cargo(&["test", "-p", "ringfence-tests", "--test", "gitops"]),
    },
    Stage {
        name: "upstream",
        about: "the upstream NetworkPolicy suite against the enforcer",
        needs: &[Need::Packages, Need::Cluster, Need::UpstreamSuite],
        checks: Checks::Cargo(&["test", "-p", "ringfence-tests", "--test", "upstream"]),
    },
];

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
            println!("{:<9} {}", stage.name, stage.about);
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
    match stage.checks {
        Checks::Cargo(arguments) => run_cargo(arguments, long, totals),
        Checks::Fuzzers => run_fuzzers(long, totals),
    }
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
