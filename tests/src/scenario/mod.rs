//! The scenarios of `examples/`: a folder with objects and a transcript of what must be seen.
//!
//! ```text
//!   examples/S2.5/expect.txt ─► transcript ─► Step: kubectl commands, then who reaches whom
//!                                                │
//!     the cluster's objects ─► policy::World ─┐  │ attempt: every connection, by every family
//!                                             ▼  ▼
//!              what is written = what the policy engine says = what the packets do
//! ```
//!
//! Besides the connections that a transcript names, every pod of a scenario tries every port that any other declares, and
//! the engine must have foretold each.

mod attempt;
mod live;
mod outside;
mod replay;
mod told;
mod transcript;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

pub use live::read_world;
pub use outside::Outside;
pub use replay::{Tally, replay};
pub use told::Told;
pub use transcript::{Expectation, Place, Step, Target, parse};

use crate::source;

/// One scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its row's id, such as `S2.5`; also its folder's name.
    pub id: String,
    /// What it is about: the rest of its README's first line.
    pub title: String,
    /// Its folder.
    pub folder: PathBuf,
    /// What happens, and what must be seen then.
    pub steps: Vec<Step>,
}

impl Scenario {
    /// The main namespace: the id in lower case, with dashes for dots.
    pub fn namespace(&self) -> String {
        self.id.to_lowercase().replace('.', "-")
    }

    /// Whether a namespace is this scenario's: the main one, or one whose name begins with the main one's and a dash.
    pub fn owns(&self, namespace: &str) -> bool {
        let rest = namespace.strip_prefix(&self.namespace());
        rest.is_some_and(|rest| rest.is_empty() || is_suffix(rest))
    }

    /// Whether it has an object of which a cluster has one: such scenarios must not be replayed at the same time.
    ///
    /// # Errors
    /// When a file of its folder cannot be read.
    pub fn has_a_singleton(&self) -> Result<bool> {
        for entry in fs::read_dir(&self.folder).context("read the folder")? {
            let path = entry?.path();
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let yaml = path.extension().is_some_and(|kind| kind == "yaml");
            let singletons = ["kind: EnforcementProbe", "kind: ZeroTrustBaseline"];
            if yaml && singletons.iter().any(|kind| text.contains(kind)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The name of its test.
    pub fn test_name(&self) -> String {
        let words: Vec<String> = self
            .title
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        format!("{}::{}", self.id, words.join("_"))
    }
}

/// `s2-3-other` is the main namespace `s2-3` and a suffix; `s2-3-4` is the main namespace of another scenario.
fn is_suffix(rest: &str) -> bool {
    let suffix = rest.strip_prefix('-');
    suffix.is_some_and(|suffix| suffix.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// Reads every scenario: each folder of `examples/` that has an `expect.txt`, by name.
///
/// # Errors
/// When a folder lacks something or its transcript does not parse; the message names the file.
pub fn all() -> Result<Vec<Scenario>> {
    let examples = source::root().join("examples");
    let mut scenarios = Vec::new();
    for entry in fs::read_dir(&examples).with_context(|| format!("read {}", examples.display()))? {
        let folder = entry?.path();
        if folder.join("expect.txt").exists() {
            scenarios.push(read(&folder).with_context(|| format!("read scenario {}", folder.display()))?);
        }
    }
    scenarios.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(scenarios)
}

fn read(folder: &Path) -> Result<Scenario> {
    let id = folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let text = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let readme = text("README.md")?;
    let title = readme
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("# ")?.strip_prefix(&id)?.strip_prefix(' '));
    let title = title.with_context(|| format!("the first line of README.md is not `# {id} TITLE`"))?;
    let mut scenario = Scenario {
        title: title.to_owned(),
        folder: folder.to_owned(),
        steps: Vec::new(),
        id,
    };
    scenario.steps = parse(&text("expect.txt")?, &scenario.namespace()).context("expect.txt")?;
    let first = scenario.steps.first().and_then(|step| step.commands.first());
    ensure!(
        first.is_some_and(|first| first.join(" ") == "apply -f pods.yaml"),
        "expect.txt does not begin with `$ kubectl apply -f pods.yaml`"
    );
    Ok(scenario)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The rows of the reference that speak of what a NetworkPolicy means, of Services, of the usual patterns and of
    /// well-known openings.
    const ROWS: &[&str] = &[
        "S1.3", "S1.4", "S2.2", "S2.3-2.4", "S2.5", "S2.6", "S2.7", "S3.1", "S3.2", "S3.3", "S4.6-4.7",
        "S5.1", "S5.2", "S5.3", "S5.4", "S5.5", "S5.6", "S5.7", "S5.8", "S5.9", "S5.10", "S6.1", "S6.2",
        "S6.3", "S6.4", "S6.5", "S6.7", "S6.8", "S7", "S8.1", "S8.4", "S8.5", "S12", "S10.6", "S10.7",
        "S10.8", "S10.10", "A.1", "A.2", "A.3",
    ];

    #[test]
    fn every_row_about_meaning_has_a_scenario_that_expects_open_and_closed_paths() {
        let scenarios = all().unwrap();
        for row in ROWS {
            let scenario = scenarios.iter().find(|scenario| scenario.id == *row);
            let scenario = scenario.unwrap_or_else(|| panic!("examples/{row} is missing"));
            for open in [true, false] {
                let expected = scenario.steps.iter().flat_map(|step| &step.expectations);
                assert!(
                    expected.clone().any(|expectation| expectation.open == open),
                    "{row} never expects open={open}"
                );
            }
        }
    }

    #[test]
    fn a_scenario_owns_its_namespaces_and_no_other_scenarios() {
        let scenario = |id: &str| Scenario {
            id: id.to_owned(),
            title: String::new(),
            folder: PathBuf::new(),
            steps: Vec::new(),
        };
        let short = scenario("S2.3");
        for (namespace, owned) in [
            ("s2-3", true),
            ("s2-3-other", true),
            ("s2-3-2-4", false),
            ("s2-30", false),
            ("default", false),
        ] {
            assert_eq!(short.owns(namespace), owned, "{namespace}");
        }
        assert!(scenario("S2.3-2.4").owns("s2-3-2-4"));
    }
}
