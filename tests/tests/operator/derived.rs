//! Openings that follow what they are derived from, also of kinds that come and go.

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use ringfence_crd::ZeroTrustNamespace;
use ringfence_operator::foreign::{HTTPRoute, PodMonitor, ServiceMonitor};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::lab::{LIMIT, Lab, block_on, shared, until};

/// A namespace with a Service `api`, port 80 on 8080, and these openings.
async fn opened(lab: &Lab, namespace: &str, allow: Value) {
    lab.namespace(namespace).await;
    lab.http_service(namespace, "api").await;
    let resource = json!({"metadata": {"name": "default"}, "spec": {"mode": "Enforce", "allow": allow}});
    lab.create::<ZeroTrustNamespace>(Some(namespace), resource).await;
    lab.says::<ZeroTrustNamespace>(namespace, "default", "Programmed", "True")
        .await;
}

/// Waits until there are as many policies whose names begin so.
async fn policies_number(lab: &Lab, namespace: &str, beginning: &str, number: usize) {
    lab.policies_are(namespace, &format!("{number} of {beginning}"), |names| {
        names.iter().filter(|name| name.starts_with(beginning)).count() == number
    })
    .await;
}

/// Waits until there is a policy whose name begins so, and it holds this text.
async fn policy_says(lab: &Lab, namespace: &str, beginning: &str, text: &str) {
    until(
        &format!("{text} in {beginning} of {namespace}"),
        LIMIT,
        async || {
            let all = lab.policies(namespace).await;
            let found = all.iter().find(|policy| policy.name_any().starts_with(beginning));
            let spec = json!(found.map(|policy| &policy.spec)).to_string();
            if spec.contains(text) { Ok(()) } else { Err(spec) }
        },
    )
    .await;
}

#[test]
fn the_way_to_the_api_server_follows_its_addresses() {
    // This API server tells nobody where it is: whoever else does is a test.
    let lab = shared();
    block_on(async {
        let allow =
            json!({"apiServer": {"clients": [{"podSelector": {"matchLabels": {"app": "operator"}}}]}});
        opened(lab, "calls-api", allow).await;
        let unknown = "False/TargetNotFound";
        lab.says::<ZeroTrustNamespace>("calls-api", "default", "ResolvedRefs", unknown)
            .await;
        policies_number(lab, "calls-api", "ringfence-api-server", 0).await;

        let endpoints = |address: &str| json!([{"addresses": [address]}]);
        let slice = json!({
            "metadata": {"name": "kubernetes-6", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv6",
            "endpoints": endpoints("2001:db8::7"),
            "ports": [{"name": "https", "port": 7443}],
        });
        lab.create::<EndpointSlice>(Some("default"), slice).await;
        policies_number(lab, "calls-api", "ringfence-api-server", 1).await;
        policy_says(lab, "calls-api", "ringfence-api-server", "2001:db8::7/128").await;
        policy_says(lab, "calls-api", "ringfence-api-server", "7443").await;
        lab.says::<ZeroTrustNamespace>("calls-api", "default", "Ready", "True/AsExpected")
            .await;
        let before = lab.policy("calls-api", "ringfence-api-server").await;

        let moved = json!({"endpoints": endpoints("2001:db8::8")});
        lab.patch::<EndpointSlice>("default", "kubernetes-6", moved).await;
        policy_says(lab, "calls-api", "ringfence-api-server", "2001:db8::8/128").await;
        let after = lab.policy("calls-api", "ringfence-api-server").await;
        assert_eq!(before.uid(), after.uid(), "changed where it stands");
        assert!(!json!(after.spec).to_string().contains("2001:db8::7/128"));

        lab.api::<EndpointSlice>("default")
            .delete("kubernetes-6", &DeleteParams::default())
            .await
            .unwrap();
        policies_number(lab, "calls-api", "ringfence-api-server", 0).await;
        lab.says::<ZeroTrustNamespace>("calls-api", "default", "ResolvedRefs", unknown)
            .await;
    });
}

#[test]
fn peers_and_back_ends_follow_stateful_sets_and_ingresses() {
    let lab = shared();
    block_on(async {
        let allow = json!({
            "sameNamespace": "StatefulSetPeers",
            "ingressControllers": {"from": [{"podSelector": {"matchLabels": {"app": "nginx"}}}]},
        });
        opened(lab, "follows", allow).await;
        let labels = json!({"app": "db"});
        let set = json!({
            "metadata": {"name": "db"},
            "spec": {
                "serviceName": "api",
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "db", "image": "db"}]}},
            },
        });
        lab.create::<StatefulSet>(Some("follows"), set).await;
        policies_number(lab, "follows", "ringfence-peers-", 2).await;
        let backend = |port: u16| json!({"service": {"name": "api", "port": {"number": port}}});
        let ingress = json!({"metadata": {"name": "site"}, "spec": {"defaultBackend": backend(80)}});
        lab.create::<Ingress>(Some("follows"), ingress).await;
        policies_number(lab, "follows", "ringfence-controllers-", 2).await;

        let patch = json!({"spec": {"defaultBackend": backend(81)}});
        lab.patch::<Ingress>("follows", "site", patch).await;
        lab.says::<ZeroTrustNamespace>("follows", "default", "ResolvedRefs", "False/PortNotFound")
            .await;
        policies_number(lab, "follows", "ringfence-controllers-", 0).await;
        lab.api::<StatefulSet>("follows")
            .delete("db", &DeleteParams::default())
            .await
            .unwrap();
        policies_number(lab, "follows", "ringfence-peers-", 0).await;
    });
}

/// The definition of a kind of another project, without its schema.
fn definition(group: &str, kind: &str) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({
        "metadata": {
            "name": format!("{plural}.{group}"),
            // The API server wants to see that a name under k8s.io was reviewed.
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/891"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    })
}

/// Creates an object of a kind that may not be served yet.
async fn create_when_served<K>(lab: &Lab, namespace: &str, name: &str, spec: Value)
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug,
{
    let object = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "spec": spec,
    });
    let object: K = serde_json::from_value(object).unwrap();
    let api = lab.api::<K>(namespace);
    until(&format!("{} to be served", K::kind(&())), LIMIT, async || {
        let created = api.create(&PostParams::default(), &object).await;
        created.map(|_| ()).map_err(|error| error.to_string())
    })
    .await;
}

/// Deletes the definition of a kind, and waits until it is gone.
async fn remove_definition(lab: &Lab, name: &str) {
    let definitions: Api<CustomResourceDefinition> = Api::all(lab.client.clone());
    definitions.delete(name, &DeleteParams::default()).await.unwrap();
    until("the definition to be gone", LIMIT, async || {
        match definitions.get_opt(name).await {
            Ok(None) => Ok(()),
            other => Err(format!(
                "{:?}",
                other.map(|found| found.map(|found| found.name_any()))
            )),
        }
    })
    .await;
}

#[test]
fn a_kind_that_appears_is_watched_until_it_goes() {
    let lab = shared();
    block_on(async {
        let allow =
            json!({"ingressControllers": {"from": [{"podSelector": {"matchLabels": {"app": "gateway"}}}]}});
        opened(lab, "routed", allow).await;
        let group = "gateway.networking.k8s.io";
        // A kind that comes back is watched again.
        for _ in 0..2 {
            lab.create::<CustomResourceDefinition>(None, definition(group, "HTTPRoute"))
                .await;
            let rules = json!({"rules": [{"backendRefs": [{"name": "api", "port": 80}]}]});
            create_when_served::<HTTPRoute>(lab, "routed", "site", rules).await;
            policies_number(lab, "routed", "ringfence-controllers-", 2).await;
            remove_definition(lab, &format!("httproutes.{group}")).await;
            policies_number(lab, "routed", "ringfence-controllers-", 0).await;
        }
    });
}

#[test]
fn monitors_are_found_while_the_cluster_has_them() {
    let lab = shared();
    block_on(async {
        let discover = json!(["PodMonitors", "ServiceMonitors"]);
        let allow = json!({"monitoring": {"from": [{"cidr": "192.0.2.1/32"}], "discover": discover}});
        opened(lab, "monitored", allow).await;
        let labelled = json!({"metadata": {"labels": {"app": "api"}}});
        lab.patch::<Service>("monitored", "api", labelled).await;
        let selector = json!({"matchLabels": {"app": "api"}});
        let group = "monitoring.coreos.com";
        let kinds = ["PodMonitor", "ServiceMonitor"];
        for kind in kinds {
            lab.create::<CustomResourceDefinition>(None, definition(group, kind))
                .await;
        }
        let pods = json!({"selector": selector, "podMetricsEndpoints": [{"port": "metrics"}]});
        create_when_served::<PodMonitor>(lab, "monitored", "pods", pods).await;
        policy_says(lab, "monitored", "ringfence-monitoring-ingress", "metrics").await;
        let services = json!({"selector": selector, "endpoints": [{"port": "http"}]});
        create_when_served::<ServiceMonitor>(lab, "monitored", "services", services).await;
        policy_says(lab, "monitored", "ringfence-monitoring-ingress", "8080").await;
        for kind in kinds {
            remove_definition(lab, &format!("{}s.{group}", kind.to_lowercase())).await;
        }
        policies_number(lab, "monitored", "ringfence-monitoring-ingress", 0).await;
    });
}

#[test]
fn metrics_nodes_and_webhooks_are_followed() {
    let lab = shared();
    block_on(async {
        let allow = json!({
            "monitoring": {"from": [{"cidr": "192.0.2.1/32"}], "discover": ["Annotations"]},
            "external": [{"service": "door"}],
            "webhooks": {"from": [{"cidr": "192.0.2.2/32"}]},
        });
        opened(lab, "served", allow).await;
        lab.service(
            "served",
            "door",
            json!({"type": "NodePort", "selector": {"app": "door"}, "ports": [{"port": 80}]}),
        )
        .await;
        policies_number(lab, "served", "ringfence-external-door", 1).await;

        let pod = json!({
            "metadata": {"name": "web", "labels": {"app": "web"}, "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9102"}},
            "spec": {"containers": [{"name": "web", "image": "web"}]},
        });
        lab.create::<Pod>(Some("served"), pod).await;
        policy_says(lab, "served", "ringfence-monitoring-ingress", "9102").await;
        let moved = json!({"metadata": {"annotations": {"prometheus.io/port": "9103"}}});
        lab.patch::<Pod>("served", "web", moved).await;
        policy_says(lab, "served", "ringfence-monitoring-ingress", "9103").await;

        let addresses = json!([{"type": "InternalIP", "address": "192.0.2.99"}]);
        let node = json!({"metadata": {"name": "node-99"}, "status": {"addresses": addresses}});
        lab.create::<Node>(None, node).await;
        policy_says(lab, "served", "ringfence-external-door", "192.0.2.99/32").await;

        // About a kind that nobody has, so that no other test asks it.
        let rule = json!({"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["things"]});
        let hook = json!({
            "name": "served.example.com", "rules": [rule], "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": "served", "name": "api", "port": 80}},
        });
        let hooks = json!({"metadata": {"name": "served"}, "webhooks": [hook]});
        lab.create::<ValidatingWebhookConfiguration>(None, hooks).await;
        policy_says(lab, "served", "ringfence-webhooks-ingress", "8080").await;
        let all: Api<ValidatingWebhookConfiguration> = Api::all(lab.client.clone());
        all.delete("served", &DeleteParams::default()).await.unwrap();
        policies_number(lab, "served", "ringfence-webhooks-ingress", 0).await;
    });
}
