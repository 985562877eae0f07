//! The stages of `cargo xtask test`: what each shows, needs and runs.

/// One stage: what passes or fails.
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) about: &'static str,
    /// What it needs on the machine, made before it starts.
    pub(crate) needs: &'static [Need],
    pub(crate) checks: Checks,
}

/// How a stage checks.
pub(crate) enum Checks {
    /// By cargo with these arguments.
    Cargo(&'static [&'static str]),
    /// By the unit and documentation tests of every crate, and these suites.
    Units(&'static [&'static str]),
    /// By these suites: integration tests, by name.
    Suites(&'static [&'static str]),
    /// By these suites, one test at a time.
    OneByOne(&'static [&'static str]),
    /// By clippy, in every suite: cargo's `--all-targets` leaves out those that run only by name.
    LintsOfSuites,
    /// By the fuzzers.
    Fuzzers,
}

/// What a stage needs on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
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
pub(crate) const STAGES: &[Stage] = &[
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
        checks: Checks::LintsOfSuites,
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
        checks: Checks::Units(&[
            "api_meaning",
            "committed",
            "core",
            "coverage",
            "explanations",
            "incremental",
            "model",
            "readings_agree",
            "seeds",
            "sentences",
            "services",
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
        about: "the enforcer's packets through the kernel, in network namespaces",
        needs: &[Need::Packages],
        checks: Checks::Suites(&["kernel", "probe"]),
    },
    Stage {
        name: "api",
        about: "the CRDs, the operator and what the documentation shows against a real API server",
        needs: &[Need::Packages, Need::ApiServer],
        checks: Checks::Suites(&[
            "crd_refusals",
            "docs",
            "node_report",
            "operator",
            "policy_reading",
            "testbed",
        ]),
    },
    Stage {
        name: "storm",
        about: "the enforcer's process between a real API server and real packets: changes, kills, outages, clocks",
        needs: &[Need::Packages, Need::Clock, Need::ApiServer],
        checks: Checks::OneByOne(&["storm"]),
    },
    Stage {
        name: "testbed",
        about: "whole clusters: killed half way, in every family and proxy mode",
        needs: &[Need::Packages, Need::Cluster],
        checks: Checks::Suites(&["testbed_cluster"]),
    },
    Stage {
        name: "scenarios",
        about: "every scenario of examples/ on a real cluster: as written, as foretold, as packets do",
        needs: &[Need::Packages, Need::Cluster],
        checks: Checks::Suites(&["scenarios"]),
    },
    Stage {
        name: "cluster",
        about: "the product on a real cluster",
        needs: &[Need::Packages, Need::Cluster],
        checks: Checks::Suites(&["cluster"]),
    },
    Stage {
        name: "gitops",
        about: "the product through Argo CD, from a Git repository, on a real cluster",
        needs: &[Need::Packages, Need::Cluster, Need::Gitops],
        checks: Checks::Suites(&["gitops"]),
    },
    Stage {
        name: "upstream",
        about: "the upstream NetworkPolicy suite against the enforcer",
        needs: &[Need::Packages, Need::Cluster, Need::UpstreamSuite],
        checks: Checks::Suites(&["upstream"]),
    },
];

impl Checks {
    /// The suites that it runs.
    fn suites(&self) -> &'static [&'static str] {
        match self {
            Self::Units(suites) | Self::Suites(suites) | Self::OneByOne(suites) => suites,
            Self::Cargo(_) | Self::LintsOfSuites | Self::Fuzzers => &[],
        }
    }

    /// What cargo is started with, one time after the other.
    ///
    /// Suites are chosen by name from the whole workspace, and not by crate: cargo gives dependencies the features that the
    /// chosen crates ask for, and would compile most of them again for each choice.
    pub(crate) fn command_lines(&self) -> Vec<Vec<&'static str>> {
        const TEST: [&str; 3] = ["test", "--workspace", "--no-fail-fast"];
        let suites = || by_name(self.suites());
        match self {
            Self::Cargo(arguments) => vec![arguments.to_vec()],
            Self::Units(_) => {
                let units = ["--lib", "--bins"];
                vec![
                    TEST.into_iter().chain(units).chain(suites()).collect(),
                    TEST.into_iter().chain(["--doc"]).collect(),
                ]
            }
            Self::Suites(_) => vec![TEST.into_iter().chain(suites()).collect()],
            Self::OneByOne(_) => {
                let one = ["--", "--test-threads=1"];
                vec![TEST.into_iter().chain(suites()).chain(one).collect()]
            }
            Self::LintsOfSuites => {
                let clippy = ["clippy", "--workspace", "--quiet"];
                let all = STAGES.iter().flat_map(|stage| by_name(stage.checks.suites()));
                let strict = ["--", "-D", "warnings"];
                vec![clippy.into_iter().chain(all).chain(strict).collect()]
            }
            Self::Fuzzers => Vec::new(),
        }
    }
}

fn by_name(suites: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
    suites.iter().flat_map(|suite| ["--test", suite])
}

#[cfg(test)]
mod tests {
    use ringfence_tests::source;

    use super::STAGES;

    /// The names of the workspace's integration tests, those that run only by name included.
    fn suites_of_the_workspace() -> Vec<String> {
        let told = source::cargo()
            .args(["metadata", "--no-deps", "--format-version=1"])
            .current_dir(source::root())
            .output()
            .expect("cargo tells what the workspace has");
        let workspace: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
        let packages = workspace["packages"].as_array().expect("packages");
        let targets = packages
            .iter()
            .flat_map(|p| p["targets"].as_array().expect("targets"));
        let tests = targets.filter(|t| t["kind"][0] == "test");
        tests
            .map(|t| t["name"].as_str().expect("a name").to_owned())
            .collect()
    }

    #[test]
    fn every_suite_belongs_to_exactly_one_stage() {
        let mut have = suites_of_the_workspace();
        let mut run: Vec<&str> = STAGES
            .iter()
            .flat_map(|stage| stage.checks.suites())
            .copied()
            .collect();
        have.sort_unstable();
        run.sort_unstable();
        assert_eq!(
            run, have,
            "left: what the stages run, right: what the workspace has"
        );
    }
}
