//! The policies of a ZeroTrustNamespace itself: what it denies, and its well-known openings.

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use ringfence_crd::{Monitoring, SameNamespace, ZeroTrustNamespace};
use ringfence_policy::Direction;

use super::build::{Draft, Opening, PortSet, owned_by_zero_trust, policy, portion, portions};
use super::{Finding, GeneratorConfig, Problem, accounts, peers, service};
use crate::names::{Origin, Purpose, numbered, singleton};
use crate::view::ClusterView;

/// The port number of DNS, on the DNS Service.
const DNS_PORT: i32 = 53;

/// The policies that a ZeroTrustNamespace asks for in its own namespace, those that other namespaces' monitoring asks for
/// there, and what was found missing.
pub(crate) fn policies(
    view: &ClusterView,
    config: &GeneratorConfig,
    resource: &ZeroTrustNamespace,
) -> (Vec<NetworkPolicy>, Vec<Finding>) {
    let author = Author::new(view, resource);
    let mut problems = missing_scrapers(view, resource);
    let mut policies = Vec::new();
    let denied = resource.spec.default_deny;
    let same_namespace = resource.spec.allow.same_namespace == SameNamespace::All;
    if denied.ingress {
        policies.push(author.everywhere(Purpose::DenyIngress, Direction::Ingress, Opening::Nothing));
        policies.extend(
            same_namespace.then(|| author.same_namespace(Purpose::SameNamespaceIngress, Direction::Ingress)),
        );
        let monitoring = resource.spec.allow.monitoring.as_ref();
        policies.extend(
            monitoring
                .into_iter()
                .flat_map(|wanted| author.monitoring(wanted)),
        );
    }
    if denied.egress {
        policies.push(author.everywhere(Purpose::DenyEgress, Direction::Egress, Opening::Nothing));
        policies.extend(
            same_namespace.then(|| author.same_namespace(Purpose::SameNamespaceEgress, Direction::Egress)),
        );
        policies.extend(scraping(view, resource));
        if resource.spec.allow.dns.enabled {
            match dns(view, config, author.namespace) {
                Some(opening) => policies.push(author.everywhere(Purpose::Dns, Direction::Egress, opening)),
                None => problems.push(Problem::DnsNotFound {
                    tried: config.dns_services.clone(),
                }),
            }
        }
    }
    let findings = problems.into_iter().map(|problem| Finding {
        origin: author.origin.clone(),
        problem,
    });
    (policies, findings.collect())
}

/// The ZeroTrustNamespace whose policies are being written.
struct Author<'a> {
    view: &'a ClusterView,
    resource: &'a ZeroTrustNamespace,
    namespace: &'a str,
    origin: Origin,
}

impl<'a> Author<'a> {
    fn new(view: &'a ClusterView, resource: &'a ZeroTrustNamespace) -> Self {
        let namespace = resource.metadata.namespace.as_deref().unwrap_or_default();
        Self {
            view,
            resource,
            namespace,
            origin: Origin::from(resource),
        }
    }

    /// A policy for all pods of the namespace, of which there is one.
    fn everywhere(&self, purpose: Purpose, direction: Direction, opening: Opening) -> NetworkPolicy {
        policy(Draft {
            name: singleton(purpose),
            namespace: self.namespace,
            purpose,
            origin: &self.origin,
            owners: owned_by_zero_trust(self.view, Some(self.resource)),
            pods: LabelSelector::default(),
            direction,
            opening,
        })
    }

    fn same_namespace(&self, purpose: Purpose, direction: Direction) -> NetworkPolicy {
        let everyone = peers::pods_of(self.namespace, self.namespace, LabelSelector::default());
        self.everywhere(
            purpose,
            direction,
            Opening::To {
                peers: vec![everyone],
                ports: PortSet::All,
            },
        )
    }

    fn monitoring(&self, wanted: &Monitoring) -> Vec<NetworkPolicy> {
        let scrapers = portions(peers::ingress_peers(self.view, &wanted.from, self.namespace));
        let one = |(number, peers)| {
            let opening = Opening::To {
                peers,
                ports: pod_ports(wanted),
            };
            let mut policy = self.everywhere(Purpose::MonitoringIngress, Direction::Ingress, opening);
            if let Some(portion) = portion(number) {
                policy.metadata.name = Some(numbered(Purpose::MonitoringIngress, "", &[&portion]));
            }
            policy
        };
        scrapers.into_iter().enumerate().map(one).collect()
    }
}

fn pod_ports(monitoring: &Monitoring) -> PortSet {
    let ports = monitoring.ports.iter().map(|wanted| NetworkPolicyPort {
        end_port: None,
        port: Some(wanted.port.clone()),
        protocol: Some(wanted.protocol.as_str().to_owned()),
    });
    PortSet::only(ports.collect()).unwrap_or(PortSet::All)
}

/// The way to the cluster's DNS: the first configured Service that exists and has pods behind it, at the targetPorts of its
/// DNS ports. Its other ports (metrics) stay closed.
fn dns(view: &ClusterView, config: &GeneratorConfig, own: &str) -> Option<Opening> {
    config.dns_services.iter().find_map(|key| {
        let found = view.services.get(key)?;
        let pods = service::backends(found).ok()?;
        let ports = service::ports(found)
            .iter()
            .filter(|port| port.port == DNS_PORT)
            .map(service::target);
        let ports = PortSet::only(ports.collect())?;
        Some(Opening::To {
            peers: vec![peers::pods_of(&key.namespace, own, pods)],
            ports,
        })
    })
}

/// The other half of monitoring: egress for scrapers that run in this namespace, to every namespace whose monitoring names
/// them and which this one accepts grants from.
fn scraping(view: &ClusterView, resource: &ZeroTrustNamespace) -> Vec<NetworkPolicy> {
    let own = resource.namespace().unwrap_or_default();
    let targets = view
        .zero_trust
        .keys()
        .filter_map(|namespace| view.effective(namespace));
    targets
        .flat_map(|target| scraping_one(view, resource, &own, target))
        .collect()
}

fn scraping_one(
    view: &ClusterView,
    resource: &ZeroTrustNamespace,
    own: &str,
    target: &ZeroTrustNamespace,
) -> Vec<NetworkPolicy> {
    let scraped = target.namespace().unwrap_or_default();
    let Some(wanted) = target.spec.allow.monitoring.as_ref() else {
        return Vec::new();
    };
    if scraped != own && !peers::accepts(view, &resource.spec.accept_egress_from, &scraped) {
        return Vec::new();
    }
    let origin = Origin::from(target);
    let scrapers = peers::selectors_in(view, &wanted.from, &scraped, own);
    scrapers
        .into_iter()
        .map(|(text, pods)| {
            let everyone = peers::pods_of(&scraped, own, LabelSelector::default());
            policy(Draft {
                name: numbered(Purpose::MonitoringEgress, &scraped, &[&scraped, &text]),
                namespace: own,
                purpose: Purpose::MonitoringEgress,
                origin: &origin,
                owners: owned_by_zero_trust(view, Some(resource)),
                pods,
                direction: Direction::Egress,
                opening: Opening::To {
                    peers: vec![everyone],
                    ports: pod_ports(wanted),
                },
            })
        })
        .collect()
}

/// What stands between a namespace and the scrapers it names outright.
fn missing_scrapers(view: &ClusterView, resource: &ZeroTrustNamespace) -> Vec<Problem> {
    let own = resource.namespace().unwrap_or_default();
    let Some(wanted) = resource.spec.allow.monitoring.as_ref() else {
        return Vec::new();
    };
    let named = peers::named_namespaces(&wanted.from, &own);
    named
        .filter_map(|namespace| peers::obstacle(view, namespace, &own))
        .chain(accounts::problems(view, &wanted.from, &own))
        .collect()
}
