//! What the project's images are. `build/Dockerfile` says the same in its own words.

/// What one image is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Name without tag; also the target's name in the Dockerfile, after the last slash.
    pub name: &'static str,
    /// The crate and its binary.
    pub program: &'static str,
    /// Where the binary lies in the image; containers start with it.
    pub path: &'static str,
    /// Other binaries of the crate, each with its place in the image.
    pub others: &'static [(&'static str, &'static str)],
    /// Numeric user that containers run as, so that `runAsNonRoot` can be checked.
    pub user: &'static str,
    /// Debian packages below it; without any the image holds nothing but the binary.
    pub packages: &'static [&'static str],
}

impl Recipe {
    /// Every binary, each with its place in the image.
    pub fn binaries(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        [(self.program, self.path)]
            .into_iter()
            .chain(self.others.iter().copied())
    }
}

/// The operator: one static binary and nothing else.
pub const OPERATOR: Recipe = Recipe {
    name: "ringfence.dev/operator",
    program: "ringfence-operator",
    path: "/ringfence-operator",
    others: &[],
    user: "65532",
    packages: &[],
};

/// The enforcer: its binary, the CNI plugin that it puts on the node, and the programs it drives the kernel with.
pub const ENFORCER: Recipe = Recipe {
    name: "ringfence.dev/enforcer",
    program: "ringfence-enforcer",
    path: "/ringfence-enforcer",
    others: &[("ringfence-cni", "/ringfence-cni")],
    user: "0",
    packages: &["conntrack", "ipset", "iptables", "kmod"],
};

/// Folders of a Debian system that no container needs. The Dockerfile removes the same.
pub(super) const STRIPPED: &[&str] = &[
    "/usr/share/doc",
    "/usr/share/info",
    "/usr/share/locale",
    "/usr/share/man",
    "/var/cache/apt",
    "/var/lib/apt/lists",
    "/var/log",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    /// Instructions of one stage, continued lines joined.
    type Stage = Vec<(String, String)>;

    fn stages() -> BTreeMap<String, Stage> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/Dockerfile");
        let text = std::fs::read_to_string(path).unwrap().replace("\\\n", " ");
        let mut stages: BTreeMap<String, Stage> = BTreeMap::new();
        let mut current = String::new();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let (word, rest) = line.split_once(' ').unwrap();
            if word == "ARG" {
                continue;
            }
            if word == "FROM" {
                current = rest.rsplit_once(" AS ").unwrap().1.to_owned();
            }
            stages
                .entry(current.clone())
                .or_default()
                .push((word.to_owned(), rest.trim().to_owned()));
        }
        stages
    }

    fn argument(stage: &Stage, word: &str) -> String {
        let found: Vec<&String> = stage
            .iter()
            .filter(|(w, _)| w == word)
            .map(|(_, rest)| rest)
            .collect();
        assert_eq!(found.len(), 1, "{word} in {stage:?}");
        found[0].clone()
    }

    fn target(recipe: &Recipe) -> Stage {
        stages()[recipe.name.rsplit('/').next().unwrap()].clone()
    }

    #[test]
    fn the_dockerfile_puts_the_same_program_in_the_same_place() {
        for recipe in [OPERATOR, ENFORCER] {
            let stage = target(&recipe);
            let copied = stage
                .iter()
                .filter(|(word, _)| word == "COPY")
                .map(|(_, rest)| rest.clone());
            let expected = recipe
                .binaries()
                .map(|(program, path)| format!("--from=build /out/{program} {path}"));
            assert_eq!(copied.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            let build = argument(&stages()["build"], "RUN");
            for (program, _) in recipe.binaries() {
                assert!(
                    build.contains(&format!("--bin {program} ")),
                    "{program} is built: {build}"
                );
            }
            assert_eq!(argument(&stage, "ENTRYPOINT"), format!("[\"{}\"]", recipe.path));
            assert_eq!(argument(&stage, "USER"), recipe.user);
        }
    }

    #[test]
    fn the_dockerfile_installs_the_same_packages_and_strips_the_same_folders() {
        assert_eq!(argument(&target(&OPERATOR), "FROM"), "scratch AS operator");
        assert!(OPERATOR.packages.is_empty());
        let run = argument(&target(&ENFORCER), "RUN");
        let steps: Vec<Vec<&str>> = run
            .split("&&")
            .map(|step| step.split_whitespace().collect())
            .collect();
        let after = |words: &[&str]| -> Vec<String> {
            let step = steps.iter().find(|step| step.starts_with(words)).unwrap();
            step[words.len()..].iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            after(&["apt-get", "install", "--yes", "--no-install-recommends"]),
            ENFORCER.packages
        );
        assert_eq!(after(&["rm", "-rf"]), STRIPPED);
    }
}
