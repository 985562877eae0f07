//! Foreign openings, by policy, rule, pod and port.

use std::collections::BTreeMap;
use std::fmt::Display;

use ringfence_crd::Reopened;
use ringfence_policy::{Coverage, Direction, ObjectKey, World};

/// How many rules are named.
const RULES: usize = 20;
/// How many pods of each.
const PODS: usize = 5;
/// The longest text of peers or ports.
const TEXT: usize = 512;

/// The rules of foreign policies that open covered pods further in these directions.
pub(super) fn reopened(world: &World, read: &Coverage, directions: &[Direction]) -> Vec<Reopened> {
    let mut by_rule: BTreeMap<(&ObjectKey, Direction, usize), Vec<&str>> = BTreeMap::new();
    for (key, pod) in &read.pods {
        for direction in directions {
            for by in &pod.direction(*direction).reopened {
                let rule = (&by.policy, *direction, by.rule);
                by_rule.entry(rule).or_default().push(&key.name);
            }
        }
    }
    let told = by_rule.into_iter().take(RULES);
    told.map(|((policy, direction, rule), pods)| {
        let rules = world
            .policies
            .get(policy)
            .and_then(|policy| policy.rules(direction));
        let found = rules.and_then(|rules| rules.get(rule));
        Reopened {
            policy: policy.name.clone(),
            rule: format!("spec.{direction}[{rule}]"),
            pods: pods.iter().take(PODS).map(|name| (*name).to_owned()).collect(),
            pod_count: i32::try_from(pods.len()).unwrap_or(i32::MAX),
            peers: listed(found.and_then(|rule| rule.peers.as_deref()), "everyone"),
            ports: listed(found.and_then(|rule| rule.ports.as_deref()), "all"),
        }
    })
    .collect()
}

fn listed(items: Option<&[impl Display]>, none: &str) -> String {
    let Some(items) = items else {
        return none.to_owned();
    };
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(", ").chars().take(TEXT).collect()
}
