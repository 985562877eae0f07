//! The ResolvedRefs condition: what the generator found, for people.

use ringfence_crd::{ConditionType, Reason};

use super::accounts;
use super::condition::Finding as Condition;
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
        _ => 5,
    }
}

fn explained(origin: &Origin, problem: &Problem) -> Option<(Reason, String)> {
    let grantor = &origin.key.namespace;
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
        Problem::PendingConsent { namespace } => (
            Reason::PendingConsent,
            format!(
                "Namespace {namespace} denies egress and does not accept grants from {grantor}: add {grantor} to \
                 spec.acceptEgressFrom of ZeroTrustNamespace {namespace}/default."
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
                    "No DNS Service with pods and a port 53 was found (looked for {}), so name resolution is closed: \
                     tell the operator its name with --dns-service, or set spec.allow.dns.enabled to false.",
                    tried.join(", ")
                ),
            )
        }
        other => return accounts::explained(other),
    })
}

fn field(kind: OriginKind) -> &'static str {
    match kind {
        OriginKind::ServiceAccess => "spec.clients",
        OriginKind::ZeroTrustNamespace => "spec.allow.monitoring.from",
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
        Unsupported::NoPorts => {
            "has no ports: give it the ports that its pods serve, or list them in spec.ports."
        }
    }
}
