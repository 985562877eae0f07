//! The upstream NetworkPolicy end-to-end suite (`e2e.test`, specs named `Netpol`), run against a cluster.
//!
//! Left out are the specs that need SCTP sockets in pods (feature `SCTPConnectivity`): kernels of test machines seldom
//! have them. SCTP is covered by raw sockets instead: scenario S3.3 and the enforcer's kernel suite.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::source;
use crate::testbed::{Binaries, Cluster, E2E_TEST, E2E_TOOLS, GINKGO, Progress, step};

/// The specs to run.
const FOCUS: &str = "Netpol";
/// Except these.
const SKIP: &str = "SCTPConnectivity";

/// How many specs run side by side: they mostly wait for packets that never come.
const PROCESSES: usize = 4;

/// What came of one spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its text, with those of its containers.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// What the suite said, and where its log is.
#[derive(Debug, Clone)]
pub struct Report {
    /// Every spec that ran.
    pub specs: Vec<Spec>,
    /// The suite's whole output.
    pub log: PathBuf,
}

/// Runs the suite against the cluster; `only` runs the specs whose text has it.
///
/// # Errors
/// When the suite cannot be built or started, or ends without a report. Specs that fail are no error.
pub fn run(cluster: &Cluster, name: &str, only: Option<&str>, progress: &dyn Progress) -> Result<Report> {
    let binaries = Binaries::ensure(E2E_TOOLS, progress)?;
    let folder = source::root().join("target/upstream").join(name);
    fs::create_dir_all(&folder).with_context(|| format!("make folder {}", folder.display()))?;
    let log = folder.join("log");
    let report = folder.join("report.json");
    if report.exists() {
        fs::remove_file(&report).with_context(|| format!("remove {}", report.display()))?;
    }
    let mut command = Command::new(binaries.path(GINKGO));
    command
        .args(arguments(&folder, only))
        .arg(binaries.path(E2E_TEST))
        .arg("--")
        .arg(format!("--kubeconfig={}", cluster.kubeconfig().display()))
        // Looks at nothing but the API: no cloud, no SSH to nodes.
        .args(["--provider=skeleton", "--disable-log-dump=true"]);
    let text = step(
        progress,
        &format!("run the upstream NetworkPolicy suite ({name})"),
        || {
            // Specs that fail make it exit with 1: the report tells which.
            let status = start(command, &log)?;
            fs::read_to_string(&report).with_context(|| {
                format!(
                    "the suite ended with {status} and no report; see {}",
                    log.display()
                )
            })
        },
    )?;
    let specs = read(&text)?;
    ensure!(
        !specs.is_empty(),
        "the suite ran no spec that matches {:?}; see {}",
        only.unwrap_or(FOCUS),
        log.display()
    );
    Ok(Report { specs, log })
}

fn arguments(folder: &Path, only: Option<&str>) -> Vec<String> {
    let focus = match only {
        None => FOCUS.to_owned(),
        Some(only) => format!("{FOCUS}.*{}", escape(only)),
    };
    vec![
        format!("--procs={PROCESSES}"),
        format!("--focus={focus}"),
        format!("--skip={SKIP}"),
        "--no-color".to_owned(),
        "--silence-skips".to_owned(),
        "--timeout=1h".to_owned(),
        format!("--output-dir={}", folder.display()),
        "--json-report=report.json".to_owned(),
    ]
}

/// The text as a regular expression that matches just it.
fn escape(text: &str) -> String {
    let special = |c: char| !c.is_alphanumeric() && c != ' ' && c != '_';
    text.chars()
        .flat_map(|c| special(c).then_some('\\').into_iter().chain([c]))
        .collect()
}

fn start(mut command: Command, log: &Path) -> Result<std::process::ExitStatus> {
    let output = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let errors = output.try_clone().context("share the log between two streams")?;
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .with_context(|| format!("start {program}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SuiteReport {
    #[serde(default)]
    spec_reports: Option<Vec<SpecReport>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SpecReport {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    /// In nanoseconds.
    run_time: u64,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: String,
}

/// The specs that ran, and whatever else (set-up, clean-up) went wrong.
fn read(report: &str) -> Result<Vec<Spec>> {
    let suites: Vec<SuiteReport> = serde_json::from_str(report).context("read the suite's report")?;
    let specs = suites
        .into_iter()
        .flat_map(|suite| suite.spec_reports.unwrap_or_default());
    specs.filter_map(|spec| outcome(spec).transpose()).collect()
}

fn outcome(spec: SpecReport) -> Result<Option<Spec>> {
    let failure = match spec.state.as_str() {
        "passed" if spec.leaf_node_type == "It" => None,
        "passed" | "skipped" | "pending" => return Ok(None),
        "failed" | "panicked" | "aborted" | "interrupted" | "timedout" => {
            let message = spec.failure.map(|failure| failure.message).unwrap_or_default();
            Some(format!("{}: {message}", spec.state))
        }
        other => bail!("the suite's report has a spec in state {other:?}, which is unknown here"),
    };
    let containers = spec.container_hierarchy_texts.unwrap_or_default();
    let text = if spec.leaf_node_text.is_empty() {
        spec.leaf_node_type
    } else {
        spec.leaf_node_text
    };
    let name = containers.into_iter().chain([text]).collect::<Vec<_>>().join(" ");
    Ok(Some(Spec {
        name: without_tags(&name),
        took: Duration::from_nanos(spec.run_time),
        failure,
    }))
}

/// The name without its `[sig-network]` and `[Feature:…]`.
fn without_tags(name: &str) -> String {
    let words = name.split_whitespace();
    let words = words.filter(|word| !(word.starts_with('[') && word.ends_with(']')));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn report(specs: &serde_json::Value) -> String {
        json!([{"SuiteSucceeded": true, "SpecReports": specs}]).to_string()
    }

    #[test]
    fn only_what_ran_or_went_wrong_counts() {
        let spec = |kind: &str, text: &str, state: &str| {
            json!({"LeafNodeType": kind, "LeafNodeText": text, "State": state, "RunTime": 2_000_000_000u64,
                "ContainerHierarchyTexts": ["Netpol"], "Failure": {"Message": "3 wrong results"}})
        };
        let specs = read(&report(&json!([
            spec("It", "a [Feature:NetworkPolicy]", "passed"),
            spec("It", "b", "skipped"),
            spec("It", "c", "failed"),
            spec("SynchronizedBeforeSuite", "", "passed"),
            spec("SynchronizedAfterSuite", "", "panicked"),
        ])))
        .unwrap();
        let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["Netpol a", "Netpol c", "Netpol SynchronizedAfterSuite"]);
        assert_eq!(specs[0].took, Duration::from_secs(2));
        assert_eq!(specs[0].failure, None);
        assert_eq!(specs[1].failure.as_deref(), Some("failed: 3 wrong results"));
    }

    #[test]
    fn a_state_that_is_unknown_is_no_success() {
        let text =
            report(&json!([{"LeafNodeType": "It", "LeafNodeText": "a", "State": "odd", "RunTime": 1}]));
        assert!(read(&text).is_err());
    }

    #[test]
    fn a_filter_is_text_and_no_pattern() {
        assert_eq!(escape("'default-deny' (x)"), r"\'default\-deny\' \(x\)");
    }
}
