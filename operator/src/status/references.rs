//! The ResolvedRefs condition: what the generator found, for people.

use ringfence_crd::{ConditionType, Reason};
use ringfence_policy::ObjectKey;

use super::accounts;
use super::condition::Finding as Condition;
use super::external;
use crate::generate::{Finding, Problem, Unsupported};
use crate::names::{Origin, OriginKind};

/// How many problems a message names.
const NAMED: usize = 5;

/// ResolvedRefs, from everything that was found about a resource. What is only a note is told when nothing is wrong.
pub(super) fn resolved(findings: &[Finding]) -> Condition {
    let texts = |notes: bool| -> Vec<(Reason, String)> {
        findings
            .iter()
            .filter(|finding| finding.problem.is_note() == notes)
            .filter_map(|finding| explained(&finding.origin, &finding.problem))
            .collect()
    };
    let mut problems = texts(false);
    problems.sort_by_key(|(reason, _)| rank(*reason));
    match problems.first() {
        Some((worst, _)) => Condition::fails(ConditionType::ResolvedRefs, *worst, told(&problems)),
        None => {
            let notes = texts(true);
            let good = "Everything this resource names exists and consents.";
            let message = [good.to_owned(), told(&notes)].join(" ");
            Condition::holds(ConditionType::ResolvedRefs, Reason::Resolved, message.trim_end())
        }
    }
}

/// The first few texts, and how many there are besides.
fn told(texts: &[(Reason, String)]) -> String {
    let named = texts.iter().take(NAMED).map(|(_, text)| text.clone());
    let more = texts.len().saturating_sub(NAMED);
    let rest = (more > 0).then(|| format!("And {more} more."));
    named.chain(rest).collect::<Vec<_>>().join(" ")
}

/// What keeps a user longest comes first: what only they can change, then what is missing, then what waits for others.
fn rank(reason: Reason) -> u8 {
    match reason {
        Reason::UnsupportedService => 0,
        Reason::TargetNotFound => 1,
        Reason::PortNotFound => 2,
        Reason::DnsNotFound => 3,
        Reason::NamespaceNotFound => 4,
        Reason::AddressRefused => 5,
        _ => 6,
    }
}

fn explained(origin: &Origin, problem: &Problem) -> Option<(Reason, String)> {
    Some(match problem {
        Problem::TargetNotFound { service } => (
            Reason::TargetNotFound,
            format!(
                "Service {service} does not exist, so this path is closed: create it, or correct spec.targetRef.name."
            ),
        ),
        Problem::PortNotFound { service, port } => (
            Reason::PortNotFound,
            format!("Service {service} has no port {port}: add it there, or correct spec.ports."),
        ),
        Problem::UnsupportedService { service, why } => (
            Reason::UnsupportedService,
            format!("Service {service} {}", unsupported(*why)),
        ),
        Problem::PendingConsent { namespace, grantor } => (
            Reason::PendingConsent,
            format!(
                "Namespace {namespace} denies egress and does not accept grants from {grantor}: add {grantor} to \
                 spec.acceptEgressFrom of ZeroTrustNamespace {namespace}/default, or of the ZeroTrustBaseline where it goes \
                 by that."
            ),
        ),
        Problem::NamespaceNotFound { namespace } => (
            Reason::NamespaceNotFound,
            format!(
                "Namespace {namespace} does not exist: create it, or correct {}.",
                field(origin.kind)
            ),
        ),
        Problem::DnsNotFound { tried } => {
            let tried: Vec<String> = tried.iter().map(ToString::to_string).collect();
            (
                Reason::DnsNotFound,
                format!(
                    "No DNS Service with pods and a port 53 was found under these names, so name resolution by it is closed: \
                     {}. Name it in spec.allow.dns.services, or tell the operator with --dns-service; or set \
                     spec.allow.dns.enabled to false.",
                    tried.join(", ")
                ),
            )
        }
        other => return derived(other),
    })
}

/// What is said of the sources of derived openings.
fn derived(problem: &Problem) -> Option<(Reason, String)> {
    Some(match problem {
        Problem::NoAddresses { service } => (
            Reason::TargetNotFound,
            format!(
                "Service {service} has no selector, and none of its EndpointSlices tells an address, so this path is closed \
                 until one does."
            ),
        ),
        Problem::PodByAddress { service, pod } => (
            Reason::UnsupportedService,
            format!(
                "Service {service} has no selector, and its EndpointSlices name the address of pod {pod} of its namespace, \
                 which no policy can let callers in to: give the Service a selector."
            ),
        ),
        Problem::Reference { by, service, port } => reference(by, service, port.as_deref()),
        Problem::Ungoverned { set } => (
            Reason::TargetNotFound,
            format!(
                "StatefulSet {set} has no spec.serviceName, so nothing says on which ports its pods reach each other: give \
                 it a governing Service."
            ),
        ),
        Problem::NoContainerPort { by, port } => (
            Reason::PortNotFound,
            format!(
                "{by} names port {port}, which no container can have, so it is not opened: a port has a number from 1 to \
                 65535, or a name of up to 15 lower case letters, digits and '-'."
            ),
        ),
        Problem::Unlabelled { pod } => (
            Reason::UnsupportedService,
            format!(
                "Pod {pod} has the annotation prometheus.io/scrape and no label that a policy could select it by, so \
                 scrapers can't reach it: give it a label."
            ),
        ),
        Problem::NamedPortDiffers {
            service,
            port,
            numbers,
        } => (Reason::Resolved, differs(service, port, numbers)),
        Problem::NamedPortMissing { service, port, pod } => (
            Reason::Resolved,
            format!(
                "Pod {pod} behind Service {service} declares no port {port}, which is the Service's targetPort: it can't be \
                 called there until one of its containers does."
            ),
        ),
        // The rest are about accounts, or no missing references: Accepted and Covered tell of these.
        other => return accounts::explained(other).or_else(|| external::explained(other)),
    })
}

fn reference(by: &str, service: &ObjectKey, port: Option<&str>) -> (Reason, String) {
    match port {
        None => (
            Reason::TargetNotFound,
            format!(
                "Service {service}, which {by} names, does not exist, so this path is closed: create it, or correct {by}."
            ),
        ),
        Some(port) => (
            Reason::PortNotFound,
            format!("Service {service} has no port {port}, which {by} needs: add it there, or correct {by}."),
        ),
    }
}

fn differs(service: &ObjectKey, port: &str, numbers: &[(u16, String)]) -> String {
    let numbers: Vec<String> = numbers
        .iter()
        .map(|(number, pod)| format!("{number} on pod {pod}"))
        .collect();
    format!(
        "Port {port} behind Service {service} is {}: each pod is open on its own number.",
        numbers.join(", ")
    )
}

fn field(kind: OriginKind) -> &'static str {
    match kind {
        OriginKind::ServiceAccess => "spec.clients",
        OriginKind::ZeroTrustNamespace | OriginKind::ZeroTrustBaseline => "the peers under spec.allow",
        OriginKind::ExternalAccess => "spec",
    }
}

fn unsupported(why: Unsupported) -> &'static str {
    match why {
        Unsupported::ExternalName => {
            "is an alias for a DNS name (type ExternalName) and has no pods: name a Service with a selector."
        }
        Unsupported::NoSelector => {
            "has no selector, so no policy can say which pods it means: give it a selector, or name another Service."
        }
        Unsupported::NotExternal => {
            "is neither of type NodePort nor of type LoadBalancer, so nobody outside the cluster can call it: change its \
             type, or take it out of spec.allow.external."
        }
        Unsupported::NoPorts => {
            "has no ports: give it the ports that its pods serve, or list them in spec.ports."
        }
    }
}
