//! From a NetworkPolicy to the model, with its defaults filled in.

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::block::parse_block;
use super::{key, protocol};
use crate::labels::{InvalidSelector, Selector};
use crate::model::{ObjectKey, Peer, Policy, PortMatch, PortSpec, Rule};

/// A NetworkPolicy that the API server would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("NetworkPolicy {policy}: {field}: {reason}")]
pub struct InvalidPolicy {
    /// The policy.
    pub policy: ObjectKey,
    /// The field, such as `spec.ingress[0].ports[1].endPort`.
    pub field: String,
    /// What is wrong and what is expected.
    pub reason: String,
}

/// What is wrong with one field, while the policy's name is not at hand.
pub(super) struct Invalid {
    field: String,
    reason: String,
}

impl Invalid {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }

    fn selector(at: &str) -> impl FnOnce(InvalidSelector) -> Self + '_ {
        move |error| Self::new(format!("{at}.{}", error.field), error.reason)
    }
}

impl Policy {
    /// Reads a NetworkPolicy and fills in the defaults of its type documentation: without `policyTypes` (or with an
    /// empty list) it governs ingress always, and egress if it has egress rules.
    ///
    /// Fails where the API server would refuse the object.
    pub fn from_api(policy: &networking::NetworkPolicy) -> Result<Self, InvalidPolicy> {
        let key = key(&policy.metadata);
        let uid = policy.metadata.uid.clone().unwrap_or_default();
        let default = networking::NetworkPolicySpec::default();
        match parse_spec(policy.spec.as_ref().unwrap_or(&default)) {
            Ok((pod_selector, ingress, egress)) => Ok(Self {
                key,
                uid,
                pod_selector,
                ingress,
                egress,
            }),
            Err(Invalid { field, reason }) => Err(InvalidPolicy {
                policy: key,
                field,
                reason,
            }),
        }
    }

    /// What a policy that cannot be read stands for: it isolates in both directions and allows nothing. It selects what
    /// it says it selects, or its whole namespace where even that cannot be read.
    pub fn closed(policy: &networking::NetworkPolicy) -> Self {
        let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
        Self {
            key: key(&policy.metadata),
            uid: policy.metadata.uid.clone().unwrap_or_default(),
            pod_selector: selector
                .and_then(|s| Selector::try_from(s).ok())
                .unwrap_or_default(),
            ingress: Some(Vec::new()),
            egress: Some(Vec::new()),
        }
    }
}

type Parsed = (Selector, Option<Vec<Rule>>, Option<Vec<Rule>>);

fn parse_spec(spec: &networking::NetworkPolicySpec) -> Result<Parsed, Invalid> {
    let pod_selector = optional_selector(spec.pod_selector.as_ref(), "spec.podSelector")?.unwrap_or_default();
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if let Some(index) = types.iter().position(|t| t != "Ingress" && t != "Egress") {
        let reason = format!("`{}` is neither Ingress nor Egress", types[index]);
        return Err(Invalid::new(format!("spec.policyTypes[{index}]"), reason));
    }
    if types.len() > 2 {
        let reason = format!("{} entries, and two are the most there can be", types.len());
        return Err(Invalid::new("spec.policyTypes", reason));
    }
    let has_egress_rules = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    let governs_ingress = types.is_empty() || types.iter().any(|t| t == "Ingress");
    let governs_egress = if types.is_empty() {
        has_egress_rules
    } else {
        types.iter().any(|t| t == "Egress")
    };

    let ingress = spec.ingress.iter().flatten().enumerate().map(|(index, rule)| {
        parse_rule(
            &format!("spec.ingress[{index}]"),
            "from",
            rule.from.as_deref(),
            rule.ports.as_deref(),
        )
    });
    let egress = spec.egress.iter().flatten().enumerate().map(|(index, rule)| {
        parse_rule(
            &format!("spec.egress[{index}]"),
            "to",
            rule.to.as_deref(),
            rule.ports.as_deref(),
        )
    });
    let (ingress, egress) = (
        ingress.collect::<Result<Vec<_>, _>>()?,
        egress.collect::<Result<Vec<_>, _>>()?,
    );
    Ok((
        pod_selector,
        governs_ingress.then_some(ingress),
        governs_egress.then_some(egress),
    ))
}

fn parse_rule(
    at: &str,
    peers_field: &str,
    peers: Option<&[networking::NetworkPolicyPeer]>,
    ports: Option<&[networking::NetworkPolicyPort]>,
) -> Result<Rule, Invalid> {
    let peers = peers.unwrap_or_default().iter().enumerate();
    let peers = peers.map(|(index, peer)| parse_peer(&format!("{at}.{peers_field}[{index}]"), peer));
    let ports = ports.unwrap_or_default().iter().enumerate();
    let ports = ports.map(|(index, port)| parse_port(&format!("{at}.ports[{index}]"), port));
    let (peers, ports) = (
        peers.collect::<Result<Vec<_>, _>>()?,
        ports.collect::<Result<Vec<_>, _>>()?,
    );
    // "If this field is empty or missing, this rule matches all": an empty list is the same as none.
    Ok(Rule {
        peers: (!peers.is_empty()).then_some(peers),
        ports: (!ports.is_empty()).then_some(ports),
    })
}

fn parse_peer(at: &str, peer: &networking::NetworkPolicyPeer) -> Result<Peer, Invalid> {
    let selects_pods = peer.namespace_selector.is_some() || peer.pod_selector.is_some();
    match (&peer.ip_block, selects_pods) {
        (Some(_), true) => Err(Invalid::new(
            at,
            "ipBlock stands alone: remove the selectors or the ipBlock",
        )),
        (None, false) => Err(Invalid::new(
            at,
            "a peer needs a podSelector, a namespaceSelector or an ipBlock",
        )),
        (Some(block), false) => Ok(Peer::Block(parse_block(&format!("{at}.ipBlock"), block)?)),
        (None, true) => Ok(Peer::Pods {
            namespaces: optional_selector(
                peer.namespace_selector.as_ref(),
                &format!("{at}.namespaceSelector"),
            )?,
            pods: optional_selector(peer.pod_selector.as_ref(), &format!("{at}.podSelector"))?,
        }),
    }
}

fn optional_selector(selector: Option<&LabelSelector>, at: &str) -> Result<Option<Selector>, Invalid> {
    selector
        .map(Selector::try_from)
        .transpose()
        .map_err(Invalid::selector(at))
}

fn parse_port(at: &str, port: &networking::NetworkPolicyPort) -> Result<PortMatch, Invalid> {
    let Some(protocol) = protocol(port.protocol.as_deref()) else {
        let name = port.protocol.as_deref().unwrap_or_default();
        return Err(Invalid::new(
            format!("{at}.protocol"),
            format!("`{name}` is none of TCP, UDP, SCTP"),
        ));
    };
    let spec = match (&port.port, port.end_port) {
        (None, None) => None,
        (Some(IntOrString::Int(first)), end) => Some(parse_range(at, *first, end.unwrap_or(*first))?),
        (Some(IntOrString::String(name)), None) if is_port_name(name) => Some(PortSpec::Named(name.clone())),
        (Some(IntOrString::String(name)), None) => {
            let reason = format!(
                "`{name}` is no name of a port: at most 15 of a-z, 0-9 and inner single -, with a letter"
            );
            return Err(Invalid::new(format!("{at}.port"), reason));
        }
        (Some(IntOrString::String(_)) | None, Some(_)) => {
            return Err(Invalid::new(
                format!("{at}.endPort"),
                "endPort needs a numeric port",
            ));
        }
    };
    Ok(PortMatch { protocol, port: spec })
}

/// Whether the API server lets a port have this name.
fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

fn parse_range(at: &str, first: i32, last: i32) -> Result<PortSpec, Invalid> {
    let number = |field: &str, value: i32| {
        let valid = u16::try_from(value).ok().filter(|port| *port > 0);
        valid.ok_or_else(|| Invalid::new(format!("{at}.{field}"), format!("{value} is not within 1-65535")))
    };
    let (start, end) = (number("port", first)?, number("endPort", last)?);
    if end < start {
        return Err(Invalid::new(
            format!("{at}.endPort"),
            format!("{end} is less than port {start}"),
        ));
    }
    Ok(PortSpec::Range(start, end))
}
