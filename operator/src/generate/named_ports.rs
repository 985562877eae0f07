//! Named targetPorts: what the pods behind a Service make of the name.
//!
//! A policy carries the name, and a name stands for whatever number each pod declares under it. That is right and easily
//! overlooked, so it is said where the numbers differ, or where a pod declares none.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicyPort;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ringfence_policy::{ObjectKey, Pod, Selector};

use super::Problem;
use crate::view::ClusterView;

/// How many numbers a finding names.
const NAMED: usize = 3;

/// What there is to say about the named ports among those of a Service, whose pods a selector matches.
pub(super) fn problems(
    view: &ClusterView,
    service: &ObjectKey,
    selector: &LabelSelector,
    ports: &[NetworkPolicyPort],
) -> Vec<Problem> {
    let named = ports.iter().filter_map(|port| match &port.port {
        Some(IntOrString::String(name)) => Some((name, port.protocol.as_deref().unwrap_or("TCP"))),
        _ => None,
    });
    let Ok(selector) = Selector::try_from(selector) else {
        return Vec::new();
    };
    let pods = view.pods.get(&service.namespace).into_iter().flatten();
    let mut behind: Vec<Pod> = pods
        .map(|pod| Pod::from_api(pod))
        .filter(|pod| !pod.finished && !pod.host_network && selector.matches(&pod.labels))
        .collect();
    behind.sort_by(|a, b| a.key.cmp(&b.key));
    named
        .flat_map(|(name, protocol)| problems_of(service, name, protocol, &behind))
        .collect()
}

fn problems_of(service: &ObjectKey, name: &str, protocol: &str, pods: &[Pod]) -> Vec<Problem> {
    let mut numbers: BTreeMap<u16, String> = BTreeMap::new();
    let mut missing = None;
    for pod in pods {
        let declared = pod
            .ports
            .iter()
            .find(|port| port.name.as_deref() == Some(name) && port.protocol.to_string() == protocol);
        match declared {
            Some(port) => {
                numbers.entry(port.number).or_insert_with(|| pod.key.name.clone());
            }
            None => missing = missing.or(Some(&pod.key.name)),
        }
    }
    let differs = (numbers.len() > 1).then(|| Problem::NamedPortDiffers {
        service: service.clone(),
        port: name.to_owned(),
        numbers: numbers.into_iter().take(NAMED).collect(),
    });
    let missing = missing.map(|pod| Problem::NamedPortMissing {
        service: service.clone(),
        port: name.to_owned(),
        pod: pod.clone(),
    });
    differs.into_iter().chain(missing).collect()
}
