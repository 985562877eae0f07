//! Whether a change of an object is one that anything depends on.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::ResourceExt;

use crate::stores::Versions;

/// Whether more than a status changed.
pub(super) fn spec_changed<K: ResourceExt>(versions: &Versions<K>) -> bool {
    let facts = |object: &Arc<K>| {
        let meta = object.meta();
        (
            meta.uid.clone(),
            meta.generation,
            meta.deletion_timestamp.is_some(),
        )
    };
    versions.old.as_ref().map(facts) != versions.new.as_ref().map(facts)
}

pub(super) fn namespace_matters(versions: &Versions<Namespace>) -> bool {
    let facts = |namespace: &Arc<Namespace>| {
        (
            namespace.uid(),
            namespace.labels().clone(),
            namespace.metadata.deletion_timestamp.is_some(),
        )
    };
    versions.old.as_ref().map(facts) != versions.new.as_ref().map(facts)
}

pub(super) fn service_matters(versions: &Versions<Service>) -> bool {
    let facts = |service: &Arc<Service>| {
        (
            service.uid(),
            service.spec.clone(),
            service.metadata.deletion_timestamp.is_some(),
        )
    };
    versions.old.as_ref().map(facts) != versions.new.as_ref().map(facts)
}

pub(super) fn pod_matters(versions: &Versions<Pod>) -> bool {
    let facts = |pod: &Arc<Pod>| (ringfence_policy::Pod::from_api(pod), pod.annotations().clone());
    versions.old.as_ref().map(facts) != versions.new.as_ref().map(facts)
}
