//! The objects of a probe: two NetworkPolicies, and the pods of a round.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, LocalObjectReference, Pod, PodSecurityContext, PodSpec, ResourceRequirements,
    SeccompProfile, SecurityContext, Toleration,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use ringfence_crd::{EnforcementProbe, ProbeToleration};

use super::answer::Target;
use super::plan::{Direction, Round};
use super::{FIRST_PORT, SECOND_PORT};

/// What a pod of a probe is: a server, or a caller by what isolates it.
pub const ROLE_LABEL: &str = "ringfence.dev/probe";
/// The round that a pod belongs to.
pub const ROUND_LABEL: &str = "ringfence.dev/probe-round";
/// The role of servers.
const SERVER: &str = "server";
/// Nobody, as container images know it.
const NOBODY: i64 = 65532;

/// What pods run, and how it is fetched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodImage {
    /// The image.
    pub image: String,
    /// Secrets to pull it with.
    pub secrets: Vec<LocalObjectReference>,
}

/// The two policies that are tried. They select the probe's own pods and no others.
#[must_use]
pub fn policies(probe: &EnforcementProbe, namespace: &str) -> [NetworkPolicy; 2] {
    let servers = NetworkPolicySpec {
        pod_selector: selector(SERVER),
        policy_types: Some(vec!["Ingress".to_owned()]),
        ingress: Some(vec![
            admits(Direction::Ingress, &[SECOND_PORT]),
            admits(Direction::Egress, &[FIRST_PORT, SECOND_PORT]),
        ]),
        egress: None,
    };
    let callers = NetworkPolicySpec {
        pod_selector: selector(Direction::Egress.as_str()),
        policy_types: Some(vec!["Egress".to_owned()]),
        egress: Some(vec![NetworkPolicyEgressRule {
            to: Some(vec![peer(SERVER)]),
            ports: Some(ports(&[FIRST_PORT])),
        }]),
        ingress: None,
    };
    [("servers", servers), ("callers", callers)].map(|(name, spec)| NetworkPolicy {
        metadata: metadata(
            probe,
            namespace,
            format!("ringfence-probe-{name}"),
            BTreeMap::new(),
        ),
        spec: Some(spec),
    })
}

fn selector(role: &str) -> Option<LabelSelector> {
    Some(LabelSelector {
        match_labels: Some([(ROLE_LABEL.to_owned(), role.to_owned())].into()),
        ..LabelSelector::default()
    })
}

fn peer(role: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        pod_selector: selector(role),
        ..NetworkPolicyPeer::default()
    }
}

fn ports(numbers: &[u16]) -> Vec<NetworkPolicyPort> {
    let each = numbers
        .iter()
        .flat_map(|number| ["TCP", "UDP"].map(|protocol| (protocol, *number)));
    each.map(|(protocol, number)| NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(number))),
        protocol: Some(protocol.to_owned()),
        end_port: None,
    })
    .collect()
}

fn admits(caller: Direction, numbers: &[u16]) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from: Some(vec![peer(caller.as_str())]),
        ports: Some(ports(numbers)),
    }
}

/// The port that a caller is allowed, and the one that it is denied.
fn allowed_and_denied(caller: Direction) -> (u16, u16) {
    match caller {
        Direction::Ingress => (SECOND_PORT, FIRST_PORT),
        Direction::Egress => (FIRST_PORT, SECOND_PORT),
    }
}

/// Makes the pods of one round.
#[derive(Clone, Copy, Debug)]
pub struct Pods<'a> {
    /// The probe.
    pub probe: &'a EnforcementProbe,
    /// Where they go.
    pub namespace: &'a str,
    /// What they run.
    pub image: &'a PodImage,
    /// The round.
    pub round: &'a Round,
    /// How long they may run, whatever becomes of the operator.
    pub deadline: Duration,
    /// How long callers try.
    pub settle: Duration,
}

impl Pods<'_> {
    /// The server of a node.
    #[must_use]
    pub fn server(&self, node: usize) -> Pod {
        let ports = [FIRST_PORT, SECOND_PORT].map(|port| format!("--port={port}"));
        let mut arguments = vec!["probe-serve".to_owned(), format!("--token={}", self.round.id)];
        arguments.extend(ports);
        self.pod(node, SERVER, arguments)
    }

    /// A caller of a node, with the addresses of the servers that it tries.
    #[must_use]
    pub fn caller(&self, node: usize, caller: Direction, servers: &[Vec<IpAddr>]) -> Pod {
        let (allowed, denied) = allowed_and_denied(caller);
        let mut arguments = vec![
            "probe-call".to_owned(),
            format!("--token={}", self.round.id),
            format!("--allowed={allowed}"),
            format!("--denied={denied}"),
            format!("--seconds={}", self.settle.as_secs()),
        ];
        let targets = servers
            .iter()
            .map(|server| format!("--target={}", Target(server.clone()).argument()));
        arguments.extend(targets);
        self.pod(node, caller.as_str(), arguments)
    }

    fn pod(&self, node: usize, role: &str, arguments: Vec<String>) -> Pod {
        let labels = [
            (ROLE_LABEL, role),
            (ROUND_LABEL, &self.round.id),
            ("app.kubernetes.io/name", "ringfence-probe"),
            // A proxy in the pod would answer in the server's place.
            ("sidecar.istio.io/inject", "false"),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Pod {
            metadata: metadata(
                self.probe,
                self.namespace,
                self.round.pod_name(node, role),
                labels.into(),
            ),
            spec: Some(PodSpec {
                // Past the scheduler: a node that is full, cordoned or tainted is probed all the same.
                node_name: self.round.nodes.get(node).map(|node| node.name.clone()),
                tolerations: Some(tolerations(self.probe)),
                containers: vec![container(self.image, arguments)],
                image_pull_secrets: (!self.image.secrets.is_empty()).then(|| self.image.secrets.clone()),
                restart_policy: Some("Never".to_owned()),
                active_deadline_seconds: i64::try_from(self.deadline.as_secs()).ok(),
                termination_grace_period_seconds: Some(1),
                automount_service_account_token: Some(false),
                enable_service_links: Some(false),
                security_context: Some(PodSecurityContext {
                    run_as_non_root: Some(true),
                    run_as_user: Some(NOBODY),
                    run_as_group: Some(NOBODY),
                    seccomp_profile: Some(SeccompProfile {
                        type_: "RuntimeDefault".to_owned(),
                        localhost_profile: None,
                    }),
                    ..PodSecurityContext::default()
                }),
                ..PodSpec::default()
            }),
            status: None,
        }
    }
}

fn container(image: &PodImage, arguments: Vec<String>) -> Container {
    let quantities = |of: &[(&str, &str)]| {
        let of = of
            .iter()
            .map(|(resource, amount)| ((*resource).to_owned(), Quantity((*amount).to_owned())));
        Some(of.collect::<BTreeMap<_, _>>())
    };
    Container {
        name: "probe".to_owned(),
        image: Some(image.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(arguments),
        resources: Some(ResourceRequirements {
            requests: quantities(&[("cpu", "5m"), ("memory", "16Mi")]),
            limits: quantities(&[("memory", "64Mi")]),
            claims: None,
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                add: None,
                drop: Some(vec!["ALL".to_owned()]),
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn tolerations(probe: &EnforcementProbe) -> Vec<Toleration> {
    let anything = [ProbeToleration::default()];
    let given = probe.spec.tolerations.as_deref().unwrap_or(&anything);
    let tolerated = given.iter().map(|given| Toleration {
        key: given.key.clone(),
        value: given.value.clone(),
        operator: Some(if given.value.is_some() { "Equal" } else { "Exists" }.to_owned()),
        ..Toleration::default()
    });
    tolerated.collect()
}

fn metadata(
    probe: &EnforcementProbe,
    namespace: &str,
    name: String,
    mut labels: BTreeMap<String, String>,
) -> ObjectMeta {
    labels.insert("app.kubernetes.io/part-of".to_owned(), "ringfence".to_owned());
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        owner_references: probe.owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Whether a probe owns an object: this one, or one that was there before it.
#[must_use]
pub fn is_a_probes(object: &impl ResourceExt) -> bool {
    object.owner_references().iter().any(is_a_probe)
}

fn is_a_probe(owner: &OwnerReference) -> bool {
    owner.kind == EnforcementProbe::kind(&()) && owner.api_version.starts_with("ringfence.dev/")
}
