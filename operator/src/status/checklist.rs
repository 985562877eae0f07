//! The zero-trust checklist: the steps of hardening a namespace, and how far it has come (S12).
//!
//! A step is True only when it can be shown to be done. What nobody can know from the cluster's objects, such as whether an
//! application still works, is told by what would show it: the findings of Audit, drops, and the probe.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use ringfence_crd::{
    AuditStatus, ChecklistItem, ConditionStatus, ConditionType, Mode, SameNamespace, StepStatus,
    ZeroTrustNamespace,
};

use super::condition::{Finding, listed};
use crate::generate::{PASSING_LABELS, Problem, SCRAPE_ANNOTATION, consents};
use crate::names::NAMESPACE_NAME_LABEL;
use crate::view::{ClusterView, key};

/// The longest message.
const MESSAGE: usize = 512;
/// How many names a message lists.
const NAMED: usize = 5;

/// Whether a label says nothing about what a pod or a namespace is: a controller, the API server or Ringfence gave it.
fn is_given(label: &str) -> bool {
    let more = [NAMESPACE_NAME_LABEL, "ringfence.dev/service-account"];
    PASSING_LABELS.contains(&label) || more.contains(&label)
}

/// What the steps are judged by.
pub(super) struct Checklist<'a> {
    pub(super) view: &'a ClusterView,
    /// What holds in the namespace.
    pub(super) resource: &'a ZeroTrustNamespace,
    /// What was found missing or wrong.
    pub(super) problems: &'a [Problem],
    /// The conditions.
    pub(super) conditions: &'a [Finding],
    /// In mode Audit, what was found.
    pub(super) audit: Option<&'a AuditStatus>,
}

/// Whether a step is done, and why.
type Answer = (StepStatus, String);

fn done(message: impl Into<String>) -> Answer {
    (StepStatus::True, message.into())
}

fn to_do(message: impl Into<String>) -> Answer {
    (StepStatus::False, message.into())
}

fn nothing_to_do(message: impl Into<String>) -> Answer {
    (StepStatus::NotApplicable, message.into())
}

impl Checklist<'_> {
    /// Every step, in the order in which they are taken.
    pub(super) fn items(&self) -> Vec<ChecklistItem> {
        let steps: [(&str, Answer); 16] = [
            ("EnforcementKnown", self.enforcement()),
            ("NamespaceLabelled", self.namespace_labelled()),
            ("PodsLabelled", self.pods_labelled()),
            ("PathsKnown", self.paths_known()),
            ("DefaultDeny", self.default_deny()),
            ("Dns", self.dns()),
            ("IngressGranted", self.ingress()),
            ("EgressGranted", self.egress()),
            ("Monitoring", self.monitoring()),
            ("HealthChecks", health_checks()),
            ("ApiServer", self.api_server()),
            ("ExternalEgress", self.external()),
            ("PathsVerified", self.verified()),
            ("StatefulSetPeers", self.peers()),
            ("RollingUpdates", self.rolling_updates()),
            ("DropsLogged", self.drops_logged()),
        ];
        let item = |(step, (status, message)): (&str, Answer)| ChecklistItem {
            step: step.to_owned(),
            status,
            message: message.chars().take(MESSAGE).collect(),
        };
        steps.into_iter().map(item).collect()
    }

    fn namespace(&self) -> &str {
        self.resource.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn condition(&self, kind: ConditionType) -> Option<&Finding> {
        self.conditions.iter().find(|finding| finding.kind == kind)
    }

    fn holds(&self, kind: ConditionType) -> bool {
        self.condition(kind)
            .is_some_and(|finding| finding.status == ConditionStatus::True)
    }

    fn pods(&self) -> impl Iterator<Item = &Pod> {
        let pods = self.view.pods.get(self.namespace()).into_iter().flatten();
        pods.map(AsRef::as_ref)
    }

    /// The first message about something wrong that is of this sort.
    fn problem(&self, is: impl Fn(&Problem) -> bool) -> bool {
        self.problems.iter().any(is)
    }

    fn enforcement(&self) -> Answer {
        if self.holds(ConditionType::EnforcementVerified) {
            return done("The EnforcementProbe has shown it with packets.");
        }
        if self.holds(ConditionType::Enforced) {
            return done("Every node with pods of this namespace reports these policies in its kernel.");
        }
        match self.condition(ConditionType::Enforced) {
            Some(finding) if finding.status == ConditionStatus::False => to_do(finding.message.clone()),
            _ if !self.view.reports.nodes.is_empty() => done("Ringfence's enforcer reports from the nodes."),
            _ => to_do(
                "Nothing shows that this cluster enforces NetworkPolicies: create an EnforcementProbe, or install the enforcer.",
            ),
        }
    }

    fn namespace_labelled(&self) -> Answer {
        let labels = self.view.namespace_labels(self.namespace()).unwrap_or_default();
        let own = labels
            .iter()
            .find(|(key, _)| !is_given(key) && !key.starts_with("pod-security."));
        match own {
            Some((key, _)) => done(format!("The namespace has labels of its own, {key} among them.")),
            None => to_do(
                "The namespace has no label of its own by which peers could select it: give it one, such as tier.",
            ),
        }
    }

    fn pods_labelled(&self) -> Answer {
        let unlabelled = |pod: &&Pod| pod.labels().keys().all(|key| is_given(key));
        let names: Vec<String> = self
            .pods()
            .filter(unlabelled)
            .map(ResourceExt::name_any)
            .collect();
        if self.pods().next().is_none() {
            nothing_to_do("There are no pods.")
        } else if names.is_empty() {
            done("Every pod has labels of its own.")
        } else {
            to_do(format!(
                "No policy can select these pods: {}. Label them, such as app.kubernetes.io/name.",
                listed(&names, NAMED)
            ))
        }
    }

    fn paths_known(&self) -> Answer {
        let Some(audit) = self.audit else {
            return nothing_to_do(
                "Mode Enforce: what nobody granted is denied, and dropped packets are told of.",
            );
        };
        match &audit.since {
            None => {
                to_do("Not every node judges by these policies yet, so nobody knows what they would deny.")
            }
            Some(since) if audit.findings == 0 => done(format!("Nothing was found since {}.", since.0)),
            Some(since) => to_do(format!(
                "{} connections since {} would be denied: grant them, or see that nobody misses them.",
                audit.findings, since.0
            )),
        }
    }

    fn default_deny(&self) -> Answer {
        let denied = self.resource.spec.default_deny;
        if self.resource.spec.mode == Mode::Audit {
            return to_do("Mode Audit denies nothing: set spec.mode to Enforce when status.audit is quiet.");
        }
        match (denied.ingress, denied.egress) {
            (true, true) if self.holds(ConditionType::Covered) => {
                done("Both directions are denied, and nothing opens them further.")
            }
            (true, true) => {
                let finding = self.condition(ConditionType::Covered);
                to_do(finding.map_or_else(String::new, |finding| finding.message.clone()))
            }
            (false, _) => to_do("Ingress is not denied (spec.defaultDeny.ingress)."),
            (true, false) => to_do("Egress is not denied (spec.defaultDeny.egress)."),
        }
    }

    fn dns(&self) -> Answer {
        if !self.resource.spec.default_deny.egress {
            return nothing_to_do("Egress is not denied.");
        }
        if !self.resource.spec.allow.dns.enabled {
            return to_do("Name resolution is off (spec.allow.dns.enabled): pods find no Service by name.");
        }
        if self.problem(|problem| matches!(problem, Problem::DnsNotFound { .. })) {
            return to_do("The cluster's DNS Service was not found: name it in spec.allow.dns.services.");
        }
        done(
            "The cluster's DNS is open by UDP and TCP, at its pods' targetPort; names of headless Services resolve by it.",
        )
    }

    fn ingress(&self) -> Answer {
        if !self.resource.spec.default_deny.ingress {
            return nothing_to_do("Ingress is not denied.");
        }
        let services = self.view.services_of(self.namespace());
        let own: Vec<&str> = services.map(|(key, _)| key.name.as_str()).collect();
        let granted = |name: &&str| {
            let accesses = self.view.accesses_of(self.namespace());
            let mut in_force = accesses.filter(|(_, access)| access.metadata.deletion_timestamp.is_none());
            in_force.any(|(_, access)| access.spec.target_ref.name == **name)
        };
        let closed: Vec<String> = own
            .iter()
            .filter(|name| !granted(name))
            .map(|name| (*name).to_owned())
            .collect();
        if own.is_empty() {
            nothing_to_do("The namespace has no Service.")
        } else if closed.is_empty() {
            done("Every Service has a ServiceAccess.")
        } else if self.resource.spec.allow.same_namespace == SameNamespace::All {
            done("Pods of the namespace may call each other; others may call what a ServiceAccess says.")
        } else {
            to_do(format!(
                "No ServiceAccess lets anybody call these Services: {}. Write one for each that has clients.",
                listed(&closed, NAMED)
            ))
        }
    }

    fn egress(&self) -> Answer {
        if !self.resource.spec.default_deny.egress {
            return nothing_to_do("Egress is not denied.");
        }
        let own = self.namespace();
        let refused = self.view.grants_into(own).filter(|access| {
            let names = access
                .spec
                .clients
                .iter()
                .any(|peer| peer.namespace.as_deref() == Some(own));
            let from = access.metadata.namespace.as_deref().unwrap_or_default();
            names && from != own && !consents(self.view, own, from)
        });
        let mut refused: Vec<String> = refused.map(|access| key(access.as_ref()).to_string()).collect();
        refused.sort();
        if refused.is_empty() {
            done("Every ServiceAccess that names this namespace as a client opens its egress, too.")
        } else {
            to_do(format!(
                "These ServiceAccesses wait for consent: {}. Add their namespaces to spec.acceptEgressFrom.",
                listed(&refused, NAMED)
            ))
        }
    }

    fn monitoring(&self) -> Answer {
        if !self.resource.spec.default_deny.ingress {
            return nothing_to_do("Ingress is not denied.");
        }
        if self.resource.spec.allow.monitoring.is_some() {
            return done("Scrapers are let in (spec.allow.monitoring).");
        }
        let scraped = |pod: &&Pod| {
            pod.annotations()
                .get(SCRAPE_ANNOTATION)
                .is_some_and(|value| value == "true")
        };
        let names: Vec<String> = self.pods().filter(scraped).map(ResourceExt::name_any).collect();
        if names.is_empty() {
            nothing_to_do("No pod asks to be scraped.")
        } else {
            to_do(format!(
                "These pods ask to be scraped and nobody may: {}. Set spec.allow.monitoring.",
                listed(&names, NAMED)
            ))
        }
    }

    fn api_server(&self) -> Answer {
        if !self.resource.spec.default_deny.egress {
            return nothing_to_do("Egress is not denied.");
        }
        match &self.resource.spec.allow.api_server {
            Some(_) => done("Chosen pods may call the API server (spec.allow.apiServer)."),
            None => nothing_to_do("No pod is said to need the API server (spec.allow.apiServer)."),
        }
    }

    fn external(&self) -> Answer {
        if !self.resource.spec.default_deny.egress {
            return nothing_to_do("Egress is not denied.");
        }
        let mut externals = self.view.effective_externals(self.namespace());
        if externals.any(|external| !external.spec.egress.is_empty()) {
            done("An ExternalAccess says what lies outside and may be called.")
        } else {
            nothing_to_do("No ExternalAccess: nothing outside the cluster may be called.")
        }
    }

    fn verified(&self) -> Answer {
        if self.view.probe.is_none() {
            return nothing_to_do("There is no EnforcementProbe that would show it with packets.");
        }
        match self.condition(ConditionType::EnforcementVerified) {
            Some(finding) if finding.status == ConditionStatus::True => done(finding.message.clone()),
            Some(finding) => to_do(finding.message.clone()),
            None => to_do("No node runs pods of this namespace, so none is probed."),
        }
    }

    fn peers(&self) -> Answer {
        let sets = self.view.stateful_sets.get(self.namespace());
        let names: Vec<String> = sets.into_iter().flatten().map(|set| set.name_any()).collect();
        match self.resource.spec.allow.same_namespace {
            _ if names.is_empty() => nothing_to_do("There is no StatefulSet."),
            SameNamespace::None => to_do(format!(
                "The pods of these StatefulSets do not reach each other, unless a ServiceAccess says so: {}. Set \
                 spec.allow.sameNamespace to StatefulSetPeers if they have to.",
                listed(&names, NAMED)
            )),
            _ if self.problem(|problem| matches!(problem, Problem::Ungoverned { .. })) => to_do(
                "A StatefulSet has no governing Service that would say on which ports its pods are peers.",
            ),
            _ => done("Pods of a StatefulSet reach each other."),
        }
    }

    fn rolling_updates(&self) -> Answer {
        if self.view.reports.nodes.is_empty() {
            return nothing_to_do("How pods that start are treated is up to the cluster's network plugin.");
        }
        done("Policies select by labels, and a pod that starts waits for its rules.")
    }

    fn drops_logged(&self) -> Answer {
        if self.view.reports.nodes.is_empty() {
            return nothing_to_do("How dropped packets are told of is up to the cluster's network plugin.");
        }
        done("Enforcers tell of dropped packets in their log, their metrics and Events.")
    }
}

/// The kubelet's probes come from the pod's own node, and the API itself keeps that open.
fn health_checks() -> Answer {
    done("Probes of the kubelet come from the pod's own node, which no policy can close.")
}
