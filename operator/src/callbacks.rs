//! What the API server calls in the cluster: webhooks and aggregated APIs.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ServiceReference, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::ResourceExt;
use ringfence_policy::ObjectKey;

/// The port of a webhook or an aggregated API that names none.
const HTTPS: i32 = 443;

/// A Service that the API server calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Callback {
    /// The Service.
    pub service: ObjectKey,
    /// Its port.
    pub port: i32,
    /// What names it, for people: `APIService v1beta1.metrics.k8s.io`.
    pub by: String,
}

/// An object that tells the API server what to call.
pub trait Calls {
    /// The Services that it names. What it names by URL is nothing in this cluster.
    fn callbacks(&self) -> BTreeSet<Callback>;
}

impl Calls for ValidatingWebhookConfiguration {
    fn callbacks(&self) -> BTreeSet<Callback> {
        let by = format!("ValidatingWebhookConfiguration {}", self.name_any());
        let hooks = self.webhooks.iter().flatten();
        of_clients(&by, hooks.map(|hook| &hook.client_config))
    }
}

impl Calls for MutatingWebhookConfiguration {
    fn callbacks(&self) -> BTreeSet<Callback> {
        let by = format!("MutatingWebhookConfiguration {}", self.name_any());
        let hooks = self.webhooks.iter().flatten();
        of_clients(&by, hooks.map(|hook| &hook.client_config))
    }
}

impl Calls for APIService {
    fn callbacks(&self) -> BTreeSet<Callback> {
        let named = self.spec.as_ref().and_then(|spec| spec.service.as_ref());
        let callback = named.and_then(|service| {
            let key = ObjectKey::new(service.namespace.clone()?, service.name.clone()?);
            Some(Callback {
                service: key,
                port: service.port.unwrap_or(HTTPS),
                by: format!("APIService {}", self.name_any()),
            })
        });
        callback.into_iter().collect()
    }
}

fn of_clients<'a>(by: &str, clients: impl Iterator<Item = &'a WebhookClientConfig>) -> BTreeSet<Callback> {
    let named = clients.filter_map(|client| client.service.as_ref());
    named.map(|service| of_service(by, service)).collect()
}

fn of_service(by: &str, service: &ServiceReference) -> Callback {
    Callback {
        service: ObjectKey::new(service.namespace.clone(), service.name.clone()),
        port: service.port.unwrap_or(HTTPS),
        by: by.to_owned(),
    }
}
