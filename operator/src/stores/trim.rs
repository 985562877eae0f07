//! What is left of objects of which a cluster has many, or which change all the time.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::generate::{PORT_ANNOTATION, SCRAPE_ANNOTATION};

/// Leaves of a pod what policies and coverage depend on. A cluster has many pods, and most of each is about how it is
/// run.
pub(super) fn trim_pod(pod: &mut Pod) {
    let mut metadata = std::mem::take(&mut pod.metadata);
    if let Some(annotations) = metadata.annotations.as_mut() {
        annotations.retain(|key, _| key == SCRAPE_ANNOTATION || key == PORT_ANNOTATION);
    }
    pod.metadata = ObjectMeta {
        managed_fields: None,
        ..metadata
    };
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        node_name: spec.node_name,
        host_network: spec.host_network,
        service_account_name: spec.service_account_name,
        containers: spec.containers.into_iter().map(trim_container).collect(),
        init_containers: spec
            .init_containers
            .map(|all| all.into_iter().map(trim_container).collect()),
        ..PodSpec::default()
    });
    pod.status = pod.status.take().map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        ..PodStatus::default()
    });
}

fn trim_container(container: Container) -> Container {
    Container {
        name: container.name,
        ports: container.ports,
        restart_policy: container.restart_policy,
        ..Container::default()
    }
}
