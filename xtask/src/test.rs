//! `cargo xtask test`: every check, the cheap and likely ones to fail first.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

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
    cargo: &'static [&'static str],
}

/// Cheapest first, so that a mistake is told as early as it can be.
const STAGES: &[Stage] = &[
    Stage { name: "format", about: "rustfmt agrees", cargo: &["fmt", "--all", "--check"] },
    Stage {
        name: "clippy",
        about: "no lint warns",
        cargo: &["clippy", "--workspace", "--all-targets", "--all-features", "--quiet", "--", "-D", "warnings"],
    },
    Stage { name: "docs", about: "the documentation builds without a warning", cargo: &["doc", "--workspace", "--no-deps", "--quiet"] },
    Stage {
        name: "unit",
        about: "pure logic: unit, property and snapshot tests, and the generated files",
        cargo: &["test", "--workspace", "--exclude", "ringfence-tests", "--lib", "--bins", "--no-fail-fast"],
    },
    Stage { name: "meaning", about: "what a NetworkPolicy means", cargo: &["test", "-p", "ringfence-policy", "--tests", "--no-fail-fast"] },
    Stage {
        name: "kernel",
        about: "the enforcer against the kernel, in network namespaces",
        cargo: &["test", "-p", "ringfence-enforcer", "--tests", "--no-fail-fast"],
    },
    Stage {
        name: "api",
        about: "CRDs and the operator against a real API server",
        cargo: &["test", "-p", "ringfence-tests", "--lib", "--test", "api", "--no-fail-fast"],
    },
    Stage {
        name: "cluster",
        about: "the product on a real cluster",
        cargo: &["test", "-p", "ringfence-tests", "--test", "cluster", "--no-fail-fast"],
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
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    if args.list {
        for stage in STAGES {
            println!("{:<8} {}", stage.name, stage.about);
        }
        return Ok(());
    }
    let chosen: Vec<&Stage> =
        STAGES.iter().filter(|s| args.only.as_ref().is_none_or(|only| s.name.contains(only.as_str()))).collect();
    if chosen.is_empty() {
        bail!("no stage is called `{}`: see `cargo xtask test --list`", args.only.as_deref().unwrap_or_default());
    }
    let mut totals = Totals::default();
    let mut failed = None;
    for (index, stage) in chosen.iter().enumerate() {
        println!("\n=== {}/{} {}: {}", index + 1, chosen.len(), stage.name, stage.about);
        let started = Instant::now();
        let ok = run_stage(stage, args.long, &mut totals)?;
        println!("=== {} {} in {} s", stage.name, if ok { "passed" } else { "FAILED" }, started.elapsed().as_secs());
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
        None => Ok(()),
    }
}

fn run_stage(stage: &Stage, long: bool, totals: &mut Totals) -> Result<bool> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(stage.cargo).stdout(Stdio::piped()).stdin(Stdio::null());
    command.env("RUSTDOCFLAGS", "-D warnings");
    // Snapshots are compared, never rewritten, whoever runs the tests.
    command.env("INSTA_UPDATE", "no");
    if long {
        command.env("RINGFENCE_LONG", "1");
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
        totals.add("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        totals.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        totals.add("test something ... ok");
        assert_eq!((totals.passed, totals.failed), (4, 2));
    }
}
