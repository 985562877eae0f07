//! The status of an ExternalAccess.

use kube::ResourceExt;
use ringfence_crd::{ConditionType, ExternalAccessStatus, Reason, ResolvedName};

use super::ExternalInput;
use super::access::{leftovers, selected};
use super::condition::{Finding, in_order_of, summarised, written};
use super::enforced::enforced;
use super::programmed::programmed;
use super::references::resolved;
use crate::dns::{State, names_of};
use crate::generate::{Problem, judged};

/// What the operator has to say about an ExternalAccess. Equal to the status it has when there is nothing new.
#[must_use]
pub fn external_status(input: &ExternalInput<'_>) -> ExternalAccessStatus {
    let resource = input.resource;
    let previous = resource.status.clone().unwrap_or_default();
    let generation = resource.metadata.generation;
    let namespace = resource.namespace().unwrap_or_default();
    let (enforcement, enforced_in_short) = enforced(input.view, &namespace);
    let findings = vec![
        accepted(input, &namespace),
        resolved(&input.outline.findings),
        programmed(
            input.view,
            input.outline.policies.iter(),
            leftovers(
                input.view,
                &crate::view::key(resource),
                resource.uid(),
                input.outline,
            ),
            input.failures,
        ),
        enforcement,
    ];
    ExternalAccessStatus {
        observed_generation: generation,
        conditions: written(summarised(findings), &previous.conditions, generation, input.now),
        pods: Some(selected(input.view, &namespace, &resource.spec.pod_selector)),
        names: in_order_of(&previous.names, names(input), |known| known.name.clone()),
        enforced: Some(enforced_in_short),
        policy_count: i32::try_from(input.outline.policies.len()).ok(),
    }
}

fn names(input: &ExternalInput<'_>) -> Vec<ResolvedName> {
    let known = names_of(input.resource).into_iter().map(|name| ResolvedName {
        name: name.to_owned(),
        addresses: judged(input.view, name)
            .0
            .iter()
            .map(ToString::to_string)
            .collect(),
    });
    known.collect()
}

fn accepted(input: &ExternalInput<'_>, namespace: &str) -> Finding {
    let mut findings = input.outline.findings.iter();
    if findings.any(|finding| finding.problem == Problem::NotNeeded) {
        return Finding::holds(
            ConditionType::Accepted,
            Reason::NotNeeded,
            format!(
                "Namespace {namespace} does not deny this traffic, so it is open already; a ZeroTrustNamespace would close \
                 all but this."
            ),
        );
    }
    Finding::holds(
        ConditionType::Accepted,
        Reason::Accepted,
        "The spec is valid and in force.",
    )
}

/// The reason and the text of a problem with a DNS name; None for any other problem.
pub(super) fn explained(problem: &Problem) -> Option<(Reason, String)> {
    Some(match problem {
        Problem::NameUnresolved { name, state } => (Reason::NameUnresolved, unresolved(name, *state)),
        Problem::NameHeld { name } => (
            Reason::Resolved,
            format!(
                "The operator's name servers do not answer for {name} now; the addresses it had stay open until they do."
            ),
        ),
        Problem::AddressRefused { name, address, place } => (
            Reason::AddressRefused,
            format!(
                "{name} stands for {address}, which is {place}, and stays closed: a name must not open the cluster \
                 itself. Correct the name's DNS records, or grant access by a ServiceAccess or by cidr."
            ),
        ),
        Problem::TooManyAnswers { name, left_out } => (
            Reason::TooManyAddresses,
            format!(
                "{name} has {left_out} addresses more than are followed, and these stay closed: give its networks by cidr."
            ),
        ),
        _ => return None,
    })
}

fn unresolved(name: &str, state: State) -> String {
    match state {
        State::Pending => format!("{name} is being looked up, and is closed until then."),
        State::Answered => format!(
            "{name} does not exist or has no address, so it is closed: correct spec.egress, or create its DNS records."
        ),
        State::Failing => format!(
            "The operator's name servers do not answer for {name}, so it is closed: see that the operator reaches the \
             servers of its resolv.conf, and that these know the name."
        ),
    }
}
