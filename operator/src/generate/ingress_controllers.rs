//! The back ends that ingress controllers and gateways bring requests to.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{Ingress, IngressServiceBackend};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use ringfence_crd::ZeroTrustNamespace;
use ringfence_policy::ObjectKey;

use super::Problem;
use super::backend::{Target, resolve};
use crate::foreign::{BackendRef, HTTPRoute};
use crate::view::ClusterView;

/// A port of a Service that something names as a back end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    pub(crate) service: ObjectKey,
    /// Its name or number, as text.
    port: String,
    /// Whether it is a number.
    is_number: bool,
}

impl Named {
    pub(crate) fn number(service: ObjectKey, port: i32) -> Self {
        Self {
            service,
            port: port.to_string(),
            is_number: true,
        }
    }

    fn name(service: ObjectKey, port: String) -> Self {
        Self {
            service,
            port,
            is_number: false,
        }
    }

    fn chosen(&self) -> IntOrString {
        match self.port.parse() {
            Ok(number) if self.is_number => IntOrString::Int(number),
            _ => IntOrString::String(self.port.clone()),
        }
    }
}

/// What stands behind every back end that an Ingress or an HTTPRoute of the namespace names, and what is missing.
pub(crate) fn offers(view: &ClusterView, resource: &ZeroTrustNamespace) -> (Vec<Target>, Vec<Problem>) {
    let own = resource.namespace().unwrap_or_default();
    let mut named: BTreeMap<Named, String> = BTreeMap::new();
    for ingress in view.ingresses.get(&own).into_iter().flatten() {
        let by = format!("Ingress {own}/{}", ingress.name_any());
        named.extend(
            of_ingress(ingress, &own)
                .into_iter()
                .map(|port| (port, by.clone())),
        );
    }
    for route in view.http_routes.get(&own).into_iter().flatten() {
        let by = format!("HTTPRoute {own}/{}", route.name_any());
        named.extend(of_route(route, &own).into_iter().map(|port| (port, by.clone())));
    }
    resolved(view, named)
}

/// What stands behind named ports, and what is missing, with what names it.
pub(crate) fn resolved(view: &ClusterView, named: BTreeMap<Named, String>) -> (Vec<Target>, Vec<Problem>) {
    let (mut targets, mut problems) = (Vec::new(), Vec::new());
    for (port, by) in named {
        let (target, found) = resolve(view, &port.service, &[port.chosen()]);
        targets.extend(target);
        problems.extend(found.into_iter().map(|problem| said_by(problem, &by)));
    }
    (targets, problems)
}

/// The problem, told by what names the Service.
fn said_by(problem: Problem, by: &str) -> Problem {
    let by = by.to_owned();
    match problem {
        Problem::TargetNotFound { service } => Problem::Reference {
            by,
            service,
            port: None,
        },
        Problem::PortNotFound { service, port } => Problem::Reference {
            by,
            service,
            port: Some(port),
        },
        other => other,
    }
}

fn of_ingress(ingress: &Ingress, own: &str) -> Vec<Named> {
    let Some(spec) = ingress.spec.as_ref() else {
        return Vec::new();
    };
    let rules = spec.rules.iter().flatten();
    let paths = rules
        .filter_map(|rule| rule.http.as_ref())
        .flat_map(|http| &http.paths);
    let backends = paths.map(|path| &path.backend).chain(&spec.default_backend);
    backends
        .filter_map(|backend| backend.service.as_ref())
        .filter_map(|service| of_backend(service, own))
        .collect()
}

fn of_backend(backend: &IngressServiceBackend, own: &str) -> Option<Named> {
    let service = ObjectKey::new(own, backend.name.clone());
    let port = backend.port.as_ref()?;
    match (&port.name, port.number) {
        (Some(name), _) if !name.is_empty() => Some(Named::name(service, name.clone())),
        (_, Some(number)) => Some(Named::number(service, number)),
        _ => None,
    }
}

fn of_route(route: &HTTPRoute, own: &str) -> Vec<Named> {
    let mut named = Vec::new();
    for rule in &route.spec.rules {
        let mirrors = rule
            .filters
            .iter()
            .filter_map(|filter| filter.request_mirror.as_ref());
        let all = rule
            .backend_refs
            .iter()
            .chain(mirrors.map(|mirror| &mirror.backend_ref));
        named.extend(all.filter_map(|backend| of_reference(backend, own)));
    }
    named
}

/// A back end that is a Service of the route's own namespace. One of another namespace is that namespace's to open: a
/// ReferenceGrant lets the gateway use it, and is no consent to more.
fn of_reference(backend: &BackendRef, own: &str) -> Option<Named> {
    let is_service = backend.group.as_deref().unwrap_or_default().is_empty()
        && backend.kind.as_deref().is_none_or(|kind| kind == "Service");
    let here = backend
        .namespace
        .as_deref()
        .is_none_or(|namespace| namespace == own);
    let port = backend.port.filter(|_| is_service && here)?;
    Some(Named::number(ObjectKey::new(own, backend.name.clone()), port))
}
