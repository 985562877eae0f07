//! What stands behind a Service, as policies can say it.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ringfence_policy::{ObjectKey, Pod};

use super::build::{PortSet, Way};
use super::{Problem, Unsupported, endpoints, exempt, named_ports, peers, service};
use crate::view::ClusterView;

/// What stands behind the part of a Service that an opening is about.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// Pods of the Service's namespace.
    Pods { pods: LabelSelector, ports: PortSet },
    /// Addresses: the Service has no selector.
    Addresses(Vec<Way>),
}

impl Target {
    /// The rules by which a policy in namespace `own` opens the way to this, which is in namespace `namespace`.
    pub(crate) fn ways(&self, namespace: &str, own: &str) -> Vec<Way> {
        match self {
            Self::Pods { pods, ports } => vec![Way {
                peers: vec![peers::pods_of(namespace, own, pods.clone())],
                ports: ports.clone(),
            }],
            Self::Addresses(ways) => ways.clone(),
        }
    }
}

/// Why nothing stands behind a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// No policy can say what does.
    Unsupported(Unsupported),
    /// It has none of the wanted ports.
    NoPort,
    /// Its EndpointSlices tell no address.
    NoAddresses,
}

impl Lack {
    /// The same as a problem of a Service.
    pub(crate) fn problem(self, service: ObjectKey) -> Option<Problem> {
        match self {
            Self::Unsupported(why) => Some(Problem::UnsupportedService { service, why }),
            Self::NoAddresses => Some(Problem::NoAddresses { service }),
            // Which port is missing is said where it was asked for.
            Self::NoPort => None,
        }
    }
}

/// What stands behind those ports of a Service that are wanted.
pub(crate) fn behind(
    view: &ClusterView,
    key: &ObjectKey,
    found: &Service,
    wanted: impl Fn(&ServicePort) -> bool,
) -> Result<Target, Lack> {
    let offered: Vec<&ServicePort> = service::ports(found).iter().filter(|port| wanted(port)).collect();
    match service::backends(found) {
        Ok(pods) => {
            let targets = offered.into_iter().map(service::target);
            let ports = PortSet::only(targets.collect()).ok_or(Lack::NoPort)?;
            Ok(Target::Pods { pods, ports })
        }
        Err(Unsupported::NoSelector) => {
            if offered.is_empty() {
                return Err(Lack::NoPort);
            }
            // A port of a slice is that of the Service which has the same name.
            let name = |name: Option<&String>| name.cloned().unwrap_or_default();
            let ways = endpoints::ways(view, key, |port| {
                offered
                    .iter()
                    .any(|offered| name(offered.name.as_ref()) == name(port.name.as_ref()))
            });
            if ways.is_empty() {
                return Err(Lack::NoAddresses);
            }
            Ok(Target::Addresses(ways))
        }
        Err(why) => Err(Lack::Unsupported(why)),
    }
}

/// What stands behind the chosen ports of a Service, all of them where none is chosen, as far as it exists. A part that is
/// missing stays closed and does not stop the rest.
pub(crate) fn resolve(
    view: &ClusterView,
    key: &ObjectKey,
    chosen: &[IntOrString],
) -> (Option<Target>, Vec<Problem>) {
    let Some(found) = view.services.get(key) else {
        return (None, vec![Problem::TargetNotFound { service: key.clone() }]);
    };
    if let Err(why @ Unsupported::ExternalName) = service::backends(found) {
        return (
            None,
            Lack::Unsupported(why).problem(key.clone()).into_iter().collect(),
        );
    }
    let offered = service::ports(found);
    if offered.is_empty() && chosen.is_empty() {
        let why = Lack::Unsupported(Unsupported::NoPorts);
        return (None, why.problem(key.clone()).into_iter().collect());
    }
    let missing = chosen
        .iter()
        .filter(|wanted| !offered.iter().any(|port| service::is_called(port, wanted)));
    let mut problems: Vec<Problem> = missing
        .map(|wanted| Problem::PortNotFound {
            service: key.clone(),
            port: text(wanted),
        })
        .collect();
    let wanted = |port: &ServicePort| {
        chosen.is_empty() || chosen.iter().any(|wanted| service::is_called(port, wanted))
    };
    match behind(view, key, found, wanted) {
        Ok(target) => {
            problems.extend(pods_by_address(view, key, &target));
            if let Target::Pods { pods, .. } = &target {
                let granted = offered.iter().filter(|port| wanted(port));
                let targets: Vec<_> = granted.map(service::target).collect();
                problems.extend(named_ports::problems(view, key, pods, &targets));
            }
            (Some(target), problems)
        }
        Err(lack) => {
            problems.extend(lack.problem(key.clone()));
            (None, problems)
        }
    }
}

/// Pods of the Service's own namespace among its addresses. Callers' egress is opened to them, but their own ingress is not:
/// policies select pods by labels, and nothing says which labels these pods are meant by.
fn pods_by_address(view: &ClusterView, key: &ObjectKey, target: &Target) -> Vec<Problem> {
    let Target::Addresses(_) = target else {
        return Vec::new();
    };
    let Some(owner) = view
        .effective(&key.namespace)
        .filter(|owner| owner.spec.default_deny.ingress)
    else {
        return Vec::new();
    };
    let addresses = endpoints::addresses(view, key);
    let spared = exempt::selectors(owner);
    let closed =
        |pod: &Pod| pod.holds_addresses() && !spared.iter().any(|selector| selector.matches(&pod.labels));
    let listed = |pod: &Pod| {
        pod.addresses
            .iter()
            .any(|address: &IpAddr| addresses.contains(address))
    };
    let pods = view.pods.get(&key.namespace).into_iter().flatten();
    pods.map(|pod| Pod::from_api(pod))
        .filter(|pod| closed(pod) && listed(pod))
        .map(|pod| Problem::PodByAddress {
            service: key.clone(),
            pod: pod.key.name,
        })
        .collect()
}

fn text(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}
