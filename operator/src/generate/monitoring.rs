//! On which ports of which pods scrapers find metrics.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicyPort;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use ringfence_crd::{Allow, MetricsSource, Monitoring, ZeroTrustNamespace};
use ringfence_policy::{Labels, Protocol, Selector};

use super::backend::{Target, behind};
use super::build::PortSet;
use super::{Problem, service};
use crate::foreign::MetricsEndpoint;
use crate::view::{ClusterView, key};

/// The annotation of a pod that wants to be scraped.
pub const SCRAPE_ANNOTATION: &str = "prometheus.io/scrape";
/// The annotation with the port on which it serves metrics.
pub const PORT_ANNOTATION: &str = "prometheus.io/port";

/// Labels that controllers give to pods to tell generations and members apart. A selector with one of them would be out of
/// date with the next roll-out.
pub(crate) const PASSING_LABELS: [&str; 10] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
];

/// What scrapers find in the namespace, and what can't be opened to them.
pub(crate) fn offers(view: &ClusterView, resource: &ZeroTrustNamespace) -> (Vec<Target>, Vec<Problem>) {
    let Some(wanted) = resource.spec.allow.monitoring.as_ref() else {
        return (Vec::new(), Vec::new());
    };
    let own = resource.namespace().unwrap_or_default();
    let (mut offers, mut problems) = (Vec::new(), Vec::new());
    if !wanted.ports.is_empty() || wanted.discover.is_empty() {
        offers.push(Target::Pods {
            pods: LabelSelector::default(),
            ports: pod_ports(wanted),
        });
    }
    for source in &wanted.discover {
        let (found, unclear) = match source {
            MetricsSource::Annotations => annotated(view, &own),
            MetricsSource::PodMonitors => by_pod_monitors(view, &own),
            MetricsSource::ServiceMonitors => by_service_monitors(view, &own),
        };
        offers.extend(found);
        problems.extend(unclear);
    }
    (offers, problems)
}

/// Whether metrics ports are found by such objects.
pub(crate) fn discovers(allow: &Allow, source: MetricsSource) -> bool {
    let monitoring = allow.monitoring.as_ref();
    monitoring.is_some_and(|wanted| wanted.discover.contains(&source))
}

fn pod_ports(monitoring: &Monitoring) -> PortSet {
    let ports = monitoring.ports.iter().map(|wanted| NetworkPolicyPort {
        end_port: None,
        port: Some(wanted.port.clone()),
        protocol: Some(wanted.protocol.as_str().to_owned()),
    });
    PortSet::only(ports.collect()).unwrap_or(PortSet::All)
}

/// The ports of annotated pods, by the labels that these pods keep. A pod without any is told from no other, and stays
/// closed.
fn annotated(view: &ClusterView, own: &str) -> (Vec<Target>, Vec<Problem>) {
    let (mut by_labels, mut problems): (BTreeMap<Labels, PortSet>, _) = (BTreeMap::new(), Vec::new());
    for pod in view.pods.get(own).into_iter().flatten() {
        let Some(ports) = annotated_ports(pod) else {
            continue;
        };
        let mut labels = pod.labels().clone();
        labels.retain(|key, _| !PASSING_LABELS.contains(&key.as_str()));
        if labels.is_empty() {
            problems.push(Problem::Unlabelled { pod: pod.name_any() });
            continue;
        }
        let ports = match by_labels.remove(&labels) {
            Some(more) => ports.and(more),
            None => ports,
        };
        by_labels.insert(labels, ports);
    }
    let offers = by_labels.into_iter().map(|(labels, ports)| Target::Pods {
        pods: LabelSelector {
            match_labels: Some(labels),
            match_expressions: None,
        },
        ports,
    });
    (offers.collect(), problems)
}

/// The ports that a pod's annotations speak of. None for a pod that policies don't act on, too.
fn annotated_ports(pod: &Pod) -> Option<PortSet> {
    let annotation = |name: &str| pod.annotations().get(name).map(|text| text.trim());
    if annotation(SCRAPE_ANNOTATION) != Some("true") {
        return None;
    }
    let read = ringfence_policy::Pod::from_api(pod);
    if read.finished || read.host_network {
        return None;
    }
    let numbers: Vec<u16> = match annotation(PORT_ANNOTATION) {
        Some(text) => vec![text.parse().ok().filter(|number| *number > 0)?],
        None => {
            let declared = read.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
            declared.map(|port| port.number).collect()
        }
    };
    PortSet::only(
        numbers
            .into_iter()
            .map(|number| tcp(IntOrString::Int(number.into())))
            .collect(),
    )
}

fn by_pod_monitors(view: &ClusterView, own: &str) -> (Vec<Target>, Vec<Problem>) {
    let (mut offers, mut problems) = (Vec::new(), Vec::new());
    for monitor in &view.pod_monitors {
        let from = monitor.namespace().unwrap_or_default();
        let readable = Selector::try_from(&monitor.spec.selector).is_ok();
        if !readable || !monitor.spec.namespace_selector.include(&from, own) {
            continue;
        }
        let endpoints = monitor.spec.pod_metrics_endpoints.iter();
        let named = endpoints.filter_map(container_port);
        let (ports, wrong): (Vec<_>, Vec<_>) = named.partition(is_container_port);
        let by = format!("PodMonitor {}", key(monitor.as_ref()));
        problems.extend(wrong.into_iter().map(|port| no_port(&by, &port)));
        offers.extend(
            PortSet::only(ports.into_iter().map(tcp).collect()).map(|ports| Target::Pods {
                pods: monitor.spec.selector.clone(),
                ports,
            }),
        );
    }
    (offers, problems)
}

/// Whether a container port can be called so. The API server refuses a policy that says anything else, and with it every
/// other port that the policy opens.
fn is_container_port(port: &IntOrString) -> bool {
    match port {
        IntOrString::Int(number) => (1..=65535).contains(number),
        IntOrString::String(name) => {
            let parts = || name.split('-');
            let fits = |part: &str| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            };
            name.len() <= 15 && parts().all(fits) && name.bytes().any(|b| b.is_ascii_lowercase())
        }
    }
}

fn no_port(by: &str, port: &IntOrString) -> Problem {
    let port = match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    let by = by.to_owned();
    Problem::NoContainerPort { by, port }
}

/// The container port that an endpoint of a PodMonitor names.
fn container_port(endpoint: &MetricsEndpoint) -> Option<IntOrString> {
    let name = endpoint.port.clone().filter(|name| !name.is_empty());
    let named = name.map(IntOrString::String);
    let numbered = || endpoint.port_number.map(IntOrString::Int);
    named.or_else(numbered).or_else(|| endpoint.target_port.clone())
}

fn by_service_monitors(view: &ClusterView, own: &str) -> (Vec<Target>, Vec<Problem>) {
    let (mut offers, mut problems) = (Vec::new(), Vec::new());
    for monitor in &view.service_monitors {
        let from = monitor.namespace().unwrap_or_default();
        let Ok(selector) = Selector::try_from(&monitor.spec.selector) else {
            continue;
        };
        if !monitor.spec.namespace_selector.include(&from, own) {
            continue;
        }
        let by = format!("ServiceMonitor {}", key(monitor.as_ref()));
        let here = view.services_of(own).map(|(_, service)| service);
        for found in here.filter(|service| selector.matches(service.labels())) {
            for endpoint in &monitor.spec.endpoints {
                match by_endpoint(view, found, endpoint) {
                    Ok(target) => offers.extend(target),
                    Err(port) => problems.push(no_port(&by, &port)),
                }
            }
        }
    }
    (offers, problems)
}

/// What an endpoint of a ServiceMonitor means on one Service: the targetPort behind the port it names, or the container port
/// it names itself.
///
/// # Errors
///
/// With the container port, if none can be called so.
fn by_endpoint(
    view: &ClusterView,
    found: &Service,
    endpoint: &MetricsEndpoint,
) -> Result<Option<Target>, IntOrString> {
    if let Some(name) = endpoint.port.clone().filter(|name| !name.is_empty()) {
        let wanted = IntOrString::String(name);
        let target = behind(view, &key(found), found, |port| service::is_called(port, &wanted));
        return Ok(target.ok());
    }
    let Some(port) = endpoint.target_port.clone() else {
        return Ok(None);
    };
    if !is_container_port(&port) {
        return Err(port);
    }
    let pods = service::backends(found).ok();
    let ports = PortSet::only(vec![tcp(port)]);
    Ok(pods.zip(ports).map(|(pods, ports)| Target::Pods { pods, ports }))
}

fn tcp(port: IntOrString) -> NetworkPolicyPort {
    NetworkPolicyPort {
        end_port: None,
        port: Some(port),
        protocol: Some("TCP".to_owned()),
    }
}
