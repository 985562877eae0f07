//! What was refused, with names: what is written for people and programs.

use std::net::IpAddr;

use ringfence_policy::{Direction, ObjectKey, Pod};
use serde::{Serialize, Serializer};

use super::ledger::Sighting;
use super::packet::{Refused, Verdict};

/// One side of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Party {
    /// Its address.
    pub address: IpAddr,
    /// Its pod, where a pod has the address.
    #[serde(flatten)]
    pub pod: Option<PodName>,
}

/// A pod, as people look for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// What it is a replica of, as `Kind/name`; its own name where it is none.
    pub workload: String,
}

/// Packets that were dropped, or connections that would be, for the log: one JSON object a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Story {
    /// When it is told, RFC 3339.
    pub time: String,
    /// What became of it: `dropped` or `ended`, or nothing: `would-drop` and `would-end`.
    #[serde(serialize_with = "by_name")]
    pub verdict: Verdict,
    /// Whose policies: `egress` are the source's, `ingress` the destination's.
    pub direction: String,
    /// Who sent them.
    pub source: Party,
    /// To whom.
    pub destination: Party,
    /// TCP, UDP, SCTP, ICMP, or the number of another protocol.
    pub protocol: String,
    /// The destination's port, where the protocol has ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The policies that isolate the pod in that direction, as `namespace/name`: none of them allows it. AuditNetworkPolicies
    /// are `namespace/auditnetworkpolicy/name`; where the verdict is about them, only they are here.
    pub policies: Vec<String>,
    /// How many packets were logged since this was last told; the kernel logs a part of many.
    #[serde(skip_serializing_if = "is_zero")]
    pub packets: u64,
    /// How many connections were ended, or found since this was last told, of those that would be dropped or ended.
    #[serde(skip_serializing_if = "is_zero")]
    pub connections: u64,
}

impl Story {
    /// The story of packets. `pod` names who has an address, `policies` isolate the pod.
    pub fn of<'a>(
        sighting: &Sighting,
        time: String,
        pod: impl Fn(IpAddr) -> Option<&'a Pod>,
        policies: &[ObjectKey],
    ) -> Self {
        let Refused {
            verdict,
            direction,
            source,
            destination,
            transport,
        } = sighting.packet;
        let party = |address| Party {
            address,
            pod: pod(address).map(PodName::of),
        };
        Self {
            time,
            verdict,
            direction: direction.to_string(),
            source: party(source),
            destination: party(destination),
            protocol: transport.protocol(),
            port: transport.port(),
            policies: policies.iter().map(ToString::to_string).collect(),
            packets: if verdict == Verdict::Dropped {
                sighting.packets
            } else {
                0
            },
            connections: if verdict == Verdict::Dropped {
                0
            } else {
                sighting.packets
            },
        }
    }

    /// The side whose policies are meant.
    pub fn own(&self) -> &Party {
        if self.direction == Direction::Egress.to_string() {
            &self.source
        } else {
            &self.destination
        }
    }

    /// The side that the other's policies do not allow.
    pub fn other(&self, direction: Direction) -> &Party {
        match direction {
            Direction::Egress => &self.destination,
            Direction::Ingress => &self.source,
        }
    }

    /// What an Event on the pod says.
    pub fn note(&self, verdict: Verdict, direction: Direction) -> String {
        let word = match direction {
            Direction::Egress => "to",
            Direction::Ingress => "from",
        };
        let other = self.other(direction);
        let name = match &other.pod {
            Some(pod) => format!("{}/{} ({})", pod.namespace, pod.pod, other.address),
            None => other.address.to_string(),
        };
        let port = self.port.map(|port| format!(" {port}")).unwrap_or_default();
        let what = match (verdict, self.packets) {
            (Verdict::Dropped, 1) => "Dropped a packet",
            (Verdict::Dropped, _) => "Dropped packets",
            (Verdict::Ended, _) => "Ended a connection",
            (Verdict::WouldDrop, _) => "Passed, but would be dropped: a connection",
            (Verdict::WouldEnd, _) => "Goes on, but would end: a connection",
        };
        format!(
            "{what} {word} {name} at {}{port}: no rule of the policies that isolate this pod for {} allows it ({}). If it \
             should pass, {}.",
            self.protocol,
            self.direction,
            self.named(),
            self.remedy(other)
        )
    }

    /// The first policies by name, the others by number.
    fn named(&self) -> String {
        let mut names = String::new();
        for (n, policy) in self.policies.iter().enumerate() {
            if names.len() + policy.len() > ROOM_FOR_NAMES {
                return format!("{names} and {} more", self.policies.len() - n);
            }
            names += if n == 0 { "" } else { ", " };
            names += policy;
        }
        names
    }

    /// What lets it pass. Whoever edits a generated policy finds the edit undone.
    fn remedy(&self, other: &Party) -> String {
        let mut names = self.policies.iter().filter_map(|policy| policy.split('/').nth(1));
        if !names.any(|name| name.starts_with(GENERATED)) {
            return "add a rule for this peer and port to one of them".to_owned();
        }
        let kind = if other.pod.is_some() {
            "a ServiceAccess for the Service and this client"
        } else {
            "an ExternalAccess for this address and port"
        };
        format!(
            "grant it with {kind}: policies named {GENERATED}* are generated, and edits of them are undone"
        )
    }
}

/// What the names of policies begin with that the operator generates.
const GENERATED: &str = "ringfence-";
/// The most characters for policies' names in an Event: the API server takes no note of more than 1,024 in all.
const ROOM_FOR_NAMES: usize = 330;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn by_name<S: Serializer>(verdict: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(verdict.as_str())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl PodName {
    /// The names of a pod.
    pub fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.key.namespace.clone(),
            pod: pod.key.name.clone(),
            workload: workload(pod),
        }
    }
}

/// What a pod is a replica of, told by the labels that its controller gave it: no other object has to be watched.
fn workload(pod: &Pod) -> String {
    let label = |name: &str| pod.labels.get(name);
    let name = pod.key.name.as_str();
    let without = |suffix: &str| {
        let (rest, _) = name.rsplit_once('-')?;
        rest.strip_suffix(suffix)?.strip_suffix('-')
    };
    if let Some(deployment) = label("pod-template-hash").and_then(|hash| without(hash)) {
        return format!("Deployment/{deployment}");
    }
    if label("statefulset.kubernetes.io/pod-name").is_some()
        && let Some((set, _)) = name.rsplit_once('-')
    {
        return format!("StatefulSet/{set}");
    }
    if let Some(job) = label("batch.kubernetes.io/job-name").or_else(|| label("job-name")) {
        return format!("Job/{job}");
    }
    if label("controller-revision-hash").is_some()
        && let Some((set, _)) = name.rsplit_once('-')
    {
        return format!("DaemonSet/{set}");
    }
    format!("Pod/{name}")
}

#[cfg(test)]
mod tests {
    use super::super::packet::Transport;
    use super::*;

    fn pod(name: &str, labels: &[(&str, &str)]) -> Pod {
        Pod {
            key: ObjectKey::new("shop", name),
            uid: String::new(),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            node: None,
            addresses: Vec::new(),
            host_network: false,
            finished: false,
            terminating: false,
            ports: Vec::new(),
            service_account: String::new(),
        }
    }

    /// A packet to 10.244.0.7, for the first time.
    fn sighting(verdict: Verdict, source: IpAddr) -> Sighting {
        Sighting {
            packet: Refused {
                verdict,
                direction: Direction::Ingress,
                source,
                destination: [10, 244, 0, 7].into(),
                transport: Transport::Tcp(8080),
            },
            packets: 1,
            first: true,
        }
    }

    #[test]
    fn the_controllers_labels_tell_the_workload() {
        for (name, label, wanted) in [
            (
                "web-front-7d9f8c6b5-x2x4z",
                ("pod-template-hash", "7d9f8c6b5"),
                "Deployment/web-front",
            ),
            (
                "db-0",
                ("statefulset.kubernetes.io/pod-name", "db-0"),
                "StatefulSet/db",
            ),
            (
                "agent-abcde",
                ("controller-revision-hash", "1"),
                "DaemonSet/agent",
            ),
            ("load-xyz12", ("batch.kubernetes.io/job-name", "load"), "Job/load"),
            ("alone", ("app", "alone"), "Pod/alone"),
            ("forged", ("pod-template-hash", "other"), "Pod/forged"),
        ] {
            assert_eq!(workload(&pod(name, &[label])), wanted);
        }
    }

    #[test]
    fn a_story_is_one_line_with_both_ends_the_port_and_the_policies() {
        let web = pod("web-0", &[]);
        let sighting = sighting(Verdict::Dropped, [203, 0, 113, 9].into());
        let known = |address: IpAddr| (address == IpAddr::from([10, 244, 0, 7])).then_some(&web);
        let policies = [ObjectKey::new("shop", "default-deny")];
        let story = Story::of(&sighting, "2026-01-01T00:00:00Z".to_owned(), known, &policies);
        assert_eq!(
            serde_json::to_string(&story).ok().as_deref(),
            Some(
                r#"{"time":"2026-01-01T00:00:00Z","verdict":"dropped","direction":"ingress","source":{"address":"203.0.113.9"},"destination":{"address":"10.244.0.7","namespace":"shop","pod":"web-0","workload":"Pod/web-0"},"protocol":"TCP","port":8080,"policies":["shop/default-deny"],"packets":1}"#
            )
        );
        assert_eq!(
            story.note(Verdict::Dropped, Direction::Ingress),
            "Dropped a packet from 203.0.113.9 at TCP 8080: no rule of the policies that isolate this pod for ingress allows it \
             (shop/default-deny). If it should pass, add a rule for this peer and port to one of them."
        );
    }

    #[test]
    fn who_meets_a_generated_policy_is_told_to_grant_not_to_edit() {
        let [web, api] = ["web-0", "api-0"].map(|name| pod(name, &[]));
        let at = |address: [u8; 4]| IpAddr::from(address);
        let known = |address: IpAddr| match address {
            it if it == at([10, 244, 0, 7]) => Some(&api),
            it if it == at([10, 244, 0, 8]) => Some(&web),
            _ => None,
        };
        let policies = [ObjectKey::new("shop", "ringfence-deny-ingress")];
        let note = |source| {
            let story = Story::of(
                &sighting(Verdict::Dropped, source),
                String::new(),
                known,
                &policies,
            );
            story.note(Verdict::Dropped, Direction::Ingress)
        };
        let end = ": policies named ringfence-* are generated, and edits of them are undone.";
        let from_pod = note(at([10, 244, 0, 8]));
        assert!(
            from_pod.ends_with(&format!(
                "grant it with a ServiceAccess for the Service and this client{end}"
            )),
            "{from_pod}"
        );
        let from_outside = note(at([203, 0, 113, 9]));
        assert!(
            from_outside.ends_with(&format!(
                "grant it with an ExternalAccess for this address and port{end}"
            )),
            "{from_outside}"
        );
    }

    #[test]
    fn a_note_is_never_longer_than_the_api_server_takes() {
        let long = "n".repeat(63);
        let mut api = pod(&"p".repeat(253), &[]);
        api.key.namespace.clone_from(&long);
        let sighting = sighting(Verdict::WouldDrop, [10, 244, 0, 8].into());
        for (length, more) in [(53, " and 98 more"), (243, " and 99 more")] {
            let names = (0..100).map(|n| ObjectKey::new(&long, format!("ringfence-{n:0length$}")));
            let policies: Vec<ObjectKey> = names.collect();
            let story = Story::of(&sighting, String::new(), |_| Some(&api), &policies);
            let note = story.note(Verdict::WouldDrop, Direction::Ingress);
            assert!(note.len() <= 1024, "{} characters: {note}", note.len());
            assert!(note.contains(more), "{note}");
        }
    }
}
