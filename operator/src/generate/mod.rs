//! From what users wrote to the policies that mean it. Pure: a view in, policies and findings out.

mod access;
mod accounts;
mod api_server;
mod author;
mod backend;
pub(crate) mod build;
mod crossing;
mod dns;
mod endpoints;
pub(crate) mod exempt;
mod external;
mod external_access;
mod ingress_controllers;
mod monitoring;
mod named_ports;
mod namespace;
mod peers;
mod service;
mod stateful_sets;
mod webhooks;

pub use accounts::Doubt;
pub(crate) use api_server::service as api_server_service;
pub(crate) use crossing::{admitted, allowed_peers};
pub use endpoints::service_of;
pub(crate) use external_access::judged;
pub(crate) use monitoring::{PASSING_LABELS, discovers};
pub use monitoring::{PORT_ANNOTATION, SCRAPE_ANNOTATION};
pub(crate) use peers::{consents, reached};
pub(crate) use service::backends;

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use ringfence_crd::{ExternalAccess, ServiceAccess};
use ringfence_policy::ObjectKey;

use crate::dns::{Place, State};
use crate::names::Origin;
use crate::view::ClusterView;

/// What the cluster's administrator sets for all namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratorConfig {
    /// The cluster's DNS Services, most likely first; the first that exists is used.
    pub dns_services: Vec<ObjectKey>,
}

impl Default for GeneratorConfig {
    /// The names under which distributions install the cluster's DNS.
    fn default() -> Self {
        let known = [
            ("kube-system", "kube-dns"),
            ("kube-system", "coredns"),
            ("openshift-dns", "dns-default"),
            ("kube-system", "rke2-coredns-rke2-coredns"),
            ("kube-system", "kube-dns-upstream"),
        ];
        Self {
            dns_services: known
                .iter()
                .map(|(namespace, name)| ObjectKey::new(*namespace, *name))
                .collect(),
        }
    }
}

/// The policies of a namespace, and what stands in the way of more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// The policies, complete with metadata, in canonical form, sorted by name. None in mode Audit.
    pub policies: Vec<NetworkPolicy>,
    /// In mode Audit, the policies that belong into AuditNetworkPolicies.
    pub trials: Vec<NetworkPolicy>,
    /// What was found wrong or missing about the namespace's ZeroTrustNamespace, sorted and without duplicates. What
    /// there is to say about a ServiceAccess is in its [`AccessOutline`].
    pub findings: Vec<Finding>,
}

/// Something a user should know about one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The resource it is about.
    pub origin: Origin,
    /// What it is.
    pub problem: Problem,
}

/// What can be found wrong or missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// The Service named does not exist: its path stays closed.
    TargetNotFound {
        /// The Service.
        service: ObjectKey,
    },
    /// The Service has no such port: that path stays closed.
    PortNotFound {
        /// The Service.
        service: ObjectKey,
        /// The port, as the user wrote it.
        port: String,
    },
    /// The Service is of a kind that no policy can express.
    UnsupportedService {
        /// The Service.
        service: ObjectKey,
        /// Why not.
        why: Unsupported,
    },
    /// The Service has no selector, and its EndpointSlices tell no address (yet): its path stays closed.
    NoAddresses {
        /// The Service.
        service: ObjectKey,
    },
    /// The Service has no selector, and its EndpointSlices tell the address of a pod whose ingress is denied.
    PodByAddress {
        /// The Service.
        service: ObjectKey,
        /// The pod, of the same namespace.
        pod: String,
    },
    /// Something that an opening is derived from names a Service, or a port of one, that does not exist.
    Reference {
        /// What names it.
        by: String,
        /// The Service.
        service: ObjectKey,
        /// The port that the Service lacks; None if the Service itself is missing.
        port: Option<String>,
    },
    /// A StatefulSet names no Service that governs it, so nothing says on which ports its pods are peers.
    Ungoverned {
        /// The StatefulSet.
        set: String,
    },
    /// A pod that wants to be scraped has no label by which a policy could select it.
    Unlabelled {
        /// The pod.
        pod: String,
    },
    /// Something that metrics ports are found by names a port that no container can have.
    NoContainerPort {
        /// What names it.
        by: String,
        /// The port.
        port: String,
    },
    /// Callers of the Service from outside come in with a node's address, so whoever may call a node's port can.
    AnyCaller {
        /// The Service.
        service: ObjectKey,
    },
    /// A client's namespace denies egress and does not accept grants from another.
    PendingConsent {
        /// The client's namespace.
        namespace: String,
        /// The namespace that grants.
        grantor: String,
    },
    /// A namespace named does not exist (yet).
    NamespaceNotFound {
        /// The namespace.
        namespace: String,
    },
    /// None of the configured DNS Services exists with pods behind it: name resolution stays closed.
    DnsNotFound {
        /// The Services looked for.
        tried: Vec<ObjectKey>,
    },
    /// The pods behind a Service declare different numbers under the name that its targetPort is. All of them are open, each on
    /// the pod that declares it.
    NamedPortDiffers {
        /// The Service.
        service: ObjectKey,
        /// The name.
        port: String,
        /// The first few numbers, each with one of the pods that declare it.
        numbers: Vec<(u16, String)>,
    },
    /// A pod behind a Service declares no port under the name that its targetPort is: it can't be called by that.
    NamedPortMissing {
        /// The Service.
        service: ObjectKey,
        /// The name.
        port: String,
        /// The first such pod.
        pod: String,
    },
    /// The pods of a ServiceAccount are followed by their addresses, for its stamp can't be relied on. Nothing is closed
    /// that should be open.
    AccountByAddress {
        /// The account's name.
        account: String,
        /// How many pods are followed.
        pods: usize,
        /// Why.
        why: Doubt,
    },
    /// Pods of a ServiceAccount can't be given egress, for policies can't tell them from others.
    AccountEgressClosed {
        /// The account, with the namespace that denies egress.
        account: ObjectKey,
        /// Why.
        why: Doubt,
    },
    /// A ServiceAccount has more pods than are followed by address: the others' paths stay closed.
    TooManyPods {
        /// The account's name.
        account: String,
        /// How many are followed.
        followed: usize,
        /// How many there are.
        pods: usize,
    },
    /// A DNS name has no address that could be opened: its path is closed.
    NameUnresolved {
        /// The name.
        name: String,
        /// How much is known of it.
        state: State,
    },
    /// Nobody answers for a DNS name any more: what it stood for stays open.
    NameHeld {
        /// The name.
        name: String,
    },
    /// A DNS name stands for an address that no name may stand for: that address stays closed.
    AddressRefused {
        /// The name.
        name: String,
        /// The address.
        address: IpAddr,
        /// Where it is.
        place: Place,
    },
    /// A DNS name has more addresses than are followed: the others stay closed.
    TooManyAnswers {
        /// The name.
        name: String,
        /// How many are left out.
        left_out: usize,
    },
    /// Nothing is denied where this resource would open something.
    NotNeeded,
}

impl Problem {
    /// Whether it is about what pods declare, which can be told even where nothing is denied.
    fn is_about_pods(&self) -> bool {
        matches!(
            self,
            Self::NamedPortDiffers { .. } | Self::NamedPortMissing { .. }
        )
    }

    /// Whether it is only a note: everything asked for is there.
    #[must_use]
    pub fn is_note(&self) -> bool {
        self.is_about_pods() || matches!(self, Self::AccountByAddress { .. } | Self::NameHeld { .. })
    }
}

/// Why a Service can't be the target of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsupported {
    /// It is an alias for a DNS name and has no pods.
    ExternalName,
    /// It has no selector: its addresses come from elsewhere.
    NoSelector,
    /// It has no ports.
    NoPorts,
    /// It is neither of type NodePort nor of type LoadBalancer.
    NotExternal,
}

/// What one grant (a ServiceAccess or an ExternalAccess) leads to, in all namespaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessOutline {
    /// Every policy it is the origin of, as generated, sorted by namespace and name.
    pub policies: Vec<NetworkPolicy>,
    /// What was found about it.
    pub findings: Vec<Finding>,
}

/// The policies that belong into a namespace now: none unless a ZeroTrustNamespace, or the ZeroTrustBaseline, is in force there.
#[must_use]
pub fn generate(view: &ClusterView, config: &GeneratorConfig, namespace: &str) -> Generated {
    let Some(owner) = view.effective(namespace) else {
        return Generated::default();
    };
    let (mut policies, findings) = namespace::policies(view, config, owner);
    for access in view.grants_into(namespace) {
        policies.extend(access::policies_in(view, access, owner));
    }
    for external in view.effective_externals(namespace) {
        policies.extend(external_access::policies(view, external));
    }
    let policies = sorted(exempt::sparing(owner, policies));
    let (policies, trials) = if view.is_audited(namespace) {
        (Vec::new(), policies)
    } else {
        (policies, Vec::new())
    };
    Generated {
        policies,
        trials,
        findings: distinct(findings),
    }
}

/// What one ServiceAccess leads to, in all namespaces.
#[must_use]
pub fn outline(view: &ClusterView, access: &ServiceAccess) -> AccessOutline {
    let origin = Origin::from(access);
    let policies: Vec<NetworkPolicy> = touched(view, access)
        .iter()
        .filter_map(|namespace| view.effective(namespace))
        .flat_map(|owner| exempt::sparing(owner, access::policies_in(view, access, owner)))
        .collect();
    let mut problems = access::problems(view, access);
    if policies.is_empty() && problems.iter().all(Problem::is_about_pods) {
        problems.push(Problem::NotNeeded);
    }
    outlined(&origin, policies, problems)
}

/// What one ExternalAccess leads to, in its namespace.
#[must_use]
pub fn outline_external(view: &ClusterView, external: &ExternalAccess) -> AccessOutline {
    let policies = external_access::policies(view, external);
    let mut problems = external_access::problems(view, external);
    if external_access::is_needless(view, external) {
        problems.push(Problem::NotNeeded);
    }
    outlined(&Origin::from(external), policies, problems)
}

fn outlined(origin: &Origin, policies: Vec<NetworkPolicy>, problems: Vec<Problem>) -> AccessOutline {
    let findings = problems.into_iter().map(|problem| Finding {
        origin: origin.clone(),
        problem,
    });
    AccessOutline {
        policies: sorted(policies),
        findings: distinct(findings.collect()),
    }
}

/// The namespaces with a ZeroTrustNamespace in force whose policies a ServiceAccess may contribute to: its own, and those
/// of its clients.
#[must_use]
pub fn touched(view: &ClusterView, access: &ServiceAccess) -> BTreeSet<String> {
    let own = access.namespace().unwrap_or_default();
    let clients = &access.spec.clients;
    let mut touched = reached(view, clients.iter(), &own);
    touched.retain(|namespace| !peers::selectors_in(view, clients, &own, namespace).is_empty());
    touched.insert(own);
    touched.retain(|namespace| view.effective(namespace).is_some());
    touched
}

fn sorted(mut policies: Vec<NetworkPolicy>) -> Vec<NetworkPolicy> {
    policies.sort_by_key(|policy| (policy.namespace(), policy.name_any()));
    policies
}

fn distinct(findings: Vec<Finding>) -> Vec<Finding> {
    findings
        .into_iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}
