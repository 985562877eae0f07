//! `cargo xtask fuzz`: the policy engine's fuzzers, for a while.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ringfence_tests::probe::all_at_once;
use ringfence_tests::source;
use ringfence_tests::testbed::{Console, step};

/// The runner's version: the same everywhere, and changed on purpose.
const CARGO_FUZZ: &str = "0.13.2";

/// A fuzzer of `policy/fuzz`.
#[derive(Clone, Copy)]
struct Fuzzer {
    name: &'static str,
    /// The longest input that makes sense, in bytes.
    longest: u32,
}

const FUZZERS: [Fuzzer; 2] = [
    Fuzzer {
        name: "policy_json",
        longest: 4096,
    },
    Fuzzer {
        name: "world",
        longest: 512,
    },
];

/// Which fuzzers, and how long.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Seconds for each fuzzer.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this one: policy_json or world.
    target: Option<String>,
}

pub(crate) fn run(arguments: &FuzzArgs) -> Result<ExitCode> {
    let only = arguments.target.as_deref();
    let chosen: Vec<Fuzzer> = FUZZERS
        .into_iter()
        .filter(|fuzzer| only.is_none_or(|only| only == fuzzer.name))
        .collect();
    ensure!(
        !chosen.is_empty(),
        "no fuzzer is called `{}`: there are {}",
        only.unwrap_or_default(),
        FUZZERS.map(|fuzzer| fuzzer.name).join(" and ")
    );
    fuzz(&chosen, arguments.seconds)?;
    Ok(ExitCode::SUCCESS)
}

/// Every fuzzer for so many seconds; gives how many there are.
pub(crate) fn all(seconds: u64) -> Result<usize> {
    fuzz(&FUZZERS, seconds)?;
    Ok(FUZZERS.len())
}

/// Runs fuzzers side by side; an input on which one fails is an error, and is kept where the message says.
fn fuzz(fuzzers: &[Fuzzer], seconds: u64) -> Result<()> {
    let runner = ensure_runner()?;
    let progress = Console::default();
    step(&progress, "build the fuzzers", || {
        let output = cargo_fuzz(&runner, "build")
            .output()
            .context("start cargo fuzz")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "the fuzzers do not build: {}",
            said.trim()
        );
        Ok(())
    })?;
    let names: Vec<&str> = fuzzers.iter().map(|fuzzer| fuzzer.name).collect();
    let found = step(
        &progress,
        &format!("fuzz {} for {seconds} s", names.join(" and ")),
        || Ok(all_at_once(fuzzers, |fuzzer| fuzz_one(&runner, fuzzer, seconds))),
    )?;
    for (fuzzer, statistics) in fuzzers.iter().zip(found) {
        println!("{}: {}", fuzzer.name, statistics?);
    }
    Ok(())
}

/// Runs one fuzzer; gives what it says of itself.
fn fuzz_one(runner: &Path, fuzzer: &Fuzzer, seconds: u64) -> Result<String> {
    let name = fuzzer.name;
    let corpus = folder().join("corpus").join(name);
    fs::create_dir_all(&corpus).with_context(|| format!("make folder {}", corpus.display()))?;
    let seeds = folder().join("seeds").join(name);
    let words = folder().join(format!("{name}.dict"));
    let dictionary = words.exists().then(|| format!("-dict={}", words.display()));
    let output = cargo_fuzz(runner, "run")
        .arg(name)
        .arg(&corpus)
        .arg(&seeds)
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={}", fuzzer.longest))
        .args(dictionary)
        .args(["-timeout=10", "-print_final_stats=1"])
        .output()
        .context("start cargo fuzz")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let last: Vec<&str> = said.lines().rev().take(40).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        bail!(
            "{}\nfuzzer {name} found an input that fails, see above; it is in {}. Copied to {} it is a test.",
            last.join("\n"),
            folder().join("artifacts").join(name).display(),
            seeds.display()
        );
    }
    let statistics: Vec<String> = ["number_of_executed_units", "new_units_added", "peak_rss_mb"]
        .into_iter()
        .filter_map(|wanted| {
            let line = said
                .lines()
                .find(|line| line.starts_with(&format!("stat::{wanted}:")))?;
            Some(format!("{} {wanted}", line.split_whitespace().last()?))
        })
        .collect();
    Ok(statistics.join(", "))
}

/// The engine has no unsafe code: an address sanitizer would only slow it down, and take a nightly compiler.
fn cargo_fuzz(runner: &Path, verb: &str) -> Command {
    let mut command = Command::new(runner);
    command
        .current_dir(folder())
        .args(["fuzz", verb, "--sanitizer=none", "--fuzz-dir=."])
        .stdin(Stdio::null());
    command
}

fn folder() -> PathBuf {
    source::root().join("policy/fuzz")
}

/// The path of cargo-fuzz, installed below `target/` where it is not there yet.
fn ensure_runner() -> Result<PathBuf> {
    let root = source::root()
        .join("target/tools")
        .join(format!("cargo-fuzz-{CARGO_FUZZ}"));
    let program = root.join("bin/cargo-fuzz");
    if program.exists() {
        return Ok(program);
    }
    step(
        &Console::default(),
        &format!("install cargo-fuzz {CARGO_FUZZ}"),
        || {
            let output = source::cargo()
                .args([
                    "install",
                    "--quiet",
                    "--locked",
                    "--version",
                    CARGO_FUZZ,
                    "cargo-fuzz",
                    "--root",
                ])
                .arg(&root)
                .stdin(Stdio::null())
                .output()
                .context("start cargo install")?;
            ensure!(
                output.status.success(),
                "cargo install cargo-fuzz failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
            Ok(())
        },
    )?;
    Ok(program)
}
