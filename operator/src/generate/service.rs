//! From a Service to the pods behind it and the ports they listen on.

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::networking::v1::NetworkPolicyPort;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Unsupported;

/// The selector of the pods behind a Service.
///
/// # Errors
///
/// When the Service has no pods of its own that a selector could name.
pub(crate) fn backends(service: &Service) -> Result<LabelSelector, Unsupported> {
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        return Err(Unsupported::ExternalName);
    }
    let labels = spec.and_then(|spec| spec.selector.clone()).unwrap_or_default();
    if labels.is_empty() {
        return Err(Unsupported::NoSelector);
    }
    Ok(LabelSelector {
        match_labels: Some(labels),
        match_expressions: None,
    })
}

/// The ports of a Service.
pub(crate) fn ports(service: &Service) -> &[ServicePort] {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default()
}

/// Whether a port is the one that a user names, or one of those with the number a user gives (a Service may offer one number
/// under several protocols).
pub(crate) fn is_called(port: &ServicePort, wanted: &IntOrString) -> bool {
    match wanted {
        IntOrString::Int(number) => port.port == *number,
        IntOrString::String(name) => port.name.as_deref() == Some(name),
    }
}

/// What the pods listen on behind a port of a Service: its targetPort, exactly as the Service writes it, and its port only
/// where it writes none. Policies see addresses after translation, so the Service's own port never stands in one.
pub(crate) fn target(port: &ServicePort) -> NetworkPolicyPort {
    let number = IntOrString::Int(port.port);
    let target = match &port.target_port {
        None | Some(IntOrString::Int(0)) => number,
        Some(IntOrString::String(name)) if name.is_empty() => number,
        Some(target) => target.clone(),
    };
    NetworkPolicyPort {
        end_port: None,
        port: Some(target),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
    }
}
