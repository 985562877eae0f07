//! Dropped packets that enforcers must have told of.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use ringfence_policy::Protocol;
use serde_json::Value;

use super::transcript::{Place, Target};
use crate::kube_objects::kubectl;
use crate::testbed::Cluster;

/// A line that an enforcer must have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The line in the transcript, counted from 1.
    pub line: usize,
    /// Who called.
    pub from: Place,
    /// Who was called: a pod, or somebody outside the cluster.
    pub to: Target,
    /// The protocol.
    pub protocol: Protocol,
    /// `ingress` or `egress`: whose policies dropped it.
    pub direction: String,
    /// All policies that isolate the pod in that direction, `NAMESPACE/NAME`, where the end of a name may be `*`.
    pub policies: Vec<String>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policies = self.policies.join(",");
        write!(
            f,
            "line {}: nobody told of a packet dropped on {}, by {policies}",
            self.line, self.direction
        )
    }
}

impl Told {
    /// Reads what follows the word `told`.
    ///
    /// # Errors
    /// When it is not `ingress` or `egress` and a list of policies, or when a Service is called: enforcers see what is
    /// behind it.
    pub(super) fn new(
        line: usize,
        ends: (Place, Target, Protocol),
        words: &[&str],
        namespace: &str,
    ) -> Result<Self> {
        let [direction @ ("ingress" | "egress"), policies] = words else {
            bail!(
                "after `told` come two words: `ingress` or `egress`, and the policies with commas between them"
            );
        };
        let (from, to, protocol) = ends;
        ensure!(
            matches!(to, Target::Pod(..) | Target::Outside(_)),
            "enforcers tell of pods and addresses, not of Services"
        );
        let name = |text: &str| match text.contains('/') {
            true => text.to_owned(),
            false => format!("{namespace}/{text}"),
        };
        Ok(Self {
            line,
            from,
            to,
            protocol,
            direction: (*direction).to_owned(),
            policies: policies.split(',').map(name).collect(),
        })
    }

    /// Whether an enforcer's line is the one.
    fn is(&self, story: &Value) -> bool {
        let source = match &self.from {
            Place::Pod(pod) => is_pod(&story["source"], &pod.namespace, &pod.name),
            Place::Outside(address) => story["source"]["address"] == address.to_string(),
        };
        let (destination, port) = match &self.to {
            Target::Pod(pod, port) => (is_pod(&story["destination"], &pod.namespace, &pod.name), *port),
            Target::Outside(address) => {
                let told = &story["destination"]["address"];
                (*told == address.ip().to_string(), address.port())
            }
            _ => return false,
        };
        let ends = source && destination && story["port"] == port;
        let kind = story["verdict"] == "dropped" && story["direction"] == self.direction.as_str();
        ends && kind && story["protocol"] == self.protocol.to_string() && self.names(&story["policies"])
    }

    /// Whether these are all the policies, and no others.
    fn names(&self, policies: &Value) -> bool {
        let told: Vec<&str> = policies
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let fits = |pattern: &String, name: &str| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        };
        let all = self
            .policies
            .iter()
            .all(|pattern| told.iter().any(|name| fits(pattern, name)));
        all && told.len() == self.policies.len()
    }
}

fn is_pod(side: &Value, namespace: &str, name: &str) -> bool {
    side["namespace"] == namespace && side["pod"] == name
}

/// Those of these lines that no enforcer has written.
///
/// # Errors
/// When the logs cannot be read.
pub(super) fn untold(cluster: &Cluster, wanted: &[Told]) -> Result<Vec<String>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let label = "app.kubernetes.io/name=ringfence-enforcer";
    let logs = [
        "-n",
        "ringfence-system",
        "logs",
        "-l",
        label,
        "-c",
        "enforcer",
        "--tail=-1",
    ];
    let text = kubectl(cluster, &logs).context("read the enforcers' logs")?;
    let stories: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let missing = wanted
        .iter()
        .filter(|told| !stories.iter().any(|story| told.is(story)));
    Ok(missing.map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::parse;
    use super::*;
    use serde_json::json;

    fn told(line: &str) -> Result<Told> {
        let steps = parse(&format!("$ kubectl get pods\n{line}\n"), "x")?;
        Ok(steps[0].told[0].clone())
    }

    fn story() -> Value {
        json!({"verdict": "dropped", "direction": "ingress", "protocol": "TCP", "port": 80,
            "source": {"address": "192.0.2.1"}, "destination": {"namespace": "x", "pod": "b", "address": "10.0.0.1"},
            "policies": ["x/deny", "x/access-1a"]})
    }

    #[test]
    fn a_line_is_known_by_all_that_it_says() {
        let wanted = told("192.0.2.1 -> b:80 told ingress access-*,x/deny").unwrap();
        assert!(wanted.is(&story()));
        for (field, other) in [
            ("verdict", json!("would-drop")),
            ("direction", json!("egress")),
            ("protocol", json!("UDP")),
            ("port", json!(81)),
            ("source", json!({"address": "192.0.2.2"})),
            ("destination", json!({"namespace": "y", "pod": "b"})),
            ("policies", json!(["x/deny"])),
            ("policies", json!(["x/deny", "x/access-1a", "x/more"])),
        ] {
            let mut changed = story();
            changed[field] = other;
            assert!(!wanted.is(&changed), "{field}");
        }
    }

    #[test]
    fn what_nobody_can_tell_of_is_refused() {
        for line in [
            "a -> svc/b:80 told ingress deny",
            "a -> b:80 told sideways deny",
            "a -> b:80 told ingress",
        ] {
            assert!(told(line).is_err(), "{line}");
        }
    }
}
