//! How selectors, peers, ports and rules are written: as one-line YAML that can be pasted into a policy.

use std::fmt;

use crate::labels::{Operator, Requirement, Selector};
use crate::model::{Direction, IpBlock, Peer, PortMatch, PortSpec, Rule};

/// As `kubectl` writes a requirement on the command line: `app in (web)`, `!legacy`.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, operator } = self;
        let list = |values: &std::collections::BTreeSet<String>| {
            values.iter().map(String::as_str).collect::<Vec<_>>().join(",")
        };
        match operator {
            Operator::In(values) => write!(f, "{key} in ({})", list(values)),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", list(values)),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

/// As YAML: `{matchLabels: {app: "web"}}`; requirements that are not one value as `matchExpressions`.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut labels = Vec::new();
        let mut expressions = Vec::new();
        // matchLabels is a map: a second value for one key only fits among the expressions.
        let mut keys = std::collections::BTreeSet::new();
        for Requirement { key, operator } in self.requirements() {
            let (name, values) = match operator {
                Operator::In(values) if values.len() == 1 && keys.insert(key) => {
                    labels.extend(values.iter().map(|value| format!("{key}: {value:?}")));
                    continue;
                }
                Operator::In(values) => ("In", Some(values)),
                Operator::NotIn(values) => ("NotIn", Some(values)),
                Operator::Exists => ("Exists", None),
                Operator::DoesNotExist => ("DoesNotExist", None),
            };
            let values = values.map_or_else(String::new, |values| {
                format!(", values: {:?}", Vec::from_iter(values))
            });
            expressions.push(format!("{{key: {key}, operator: {name}{values}}}"));
        }
        let labels = (!labels.is_empty()).then(|| format!("matchLabels: {{{}}}", labels.join(", ")));
        let expressions =
            (!expressions.is_empty()).then(|| format!("matchExpressions: [{}]", expressions.join(", ")));
        let parts: Vec<String> = labels.into_iter().chain(expressions).collect();
        write!(f, "{{{}}}", parts.join(", "))
    }
}

/// As YAML.
impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let except: Vec<String> = self.except.iter().map(|except| format!("\"{except}\"")).collect();
        match except.is_empty() {
            true => write!(f, "{{cidr: \"{}\"}}", self.cidr),
            false => write!(f, "{{cidr: \"{}\", except: [{}]}}", self.cidr, except.join(", ")),
        }
    }
}

/// As YAML.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(block) => write!(f, "{{ipBlock: {block}}}"),
            Self::Pods { namespaces, pods } => {
                let namespaces = namespaces.as_ref().map(|s| format!("namespaceSelector: {s}"));
                let pods = pods.as_ref().map(|s| format!("podSelector: {s}"));
                let parts: Vec<String> = namespaces.into_iter().chain(pods).collect();
                write!(f, "{{{}}}", parts.join(", "))
            }
        }
    }
}

/// As YAML.
impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol;
        match &self.port {
            None => write!(f, "{{protocol: {protocol}}}"),
            Some(PortSpec::Range(first, last)) if first == last => {
                write!(f, "{{protocol: {protocol}, port: {first}}}")
            }
            Some(PortSpec::Range(first, last)) => {
                write!(f, "{{protocol: {protocol}, port: {first}, endPort: {last}}}")
            }
            Some(PortSpec::Named(name)) => write!(f, "{{protocol: {protocol}, port: {name:?}}}"),
        }
    }
}

/// A rule as YAML, with the name that its peers have in this direction.
pub(crate) fn rule(rule: &Rule, direction: Direction) -> String {
    let field = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let peers = rule.peers.as_ref().map(|peers| list(field, peers));
    let ports = rule.ports.as_ref().map(|ports| list("ports", ports));
    let parts: Vec<String> = peers.into_iter().chain(ports).collect();
    format!("{{{}}}", parts.join(", "))
}

fn list(field: &str, items: &[impl fmt::Display]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("{field}: [{}]", items.join(", "))
}
