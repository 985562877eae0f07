//! Openings that follow what they are derived from, also of kinds that come and go.

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use ringfence_crd::ZeroTrustNamespace;
use ringfence_operator::foreign::HTTPRoute;
use serde_json::{Value, json};

use crate::lab::{LIMIT, Lab, block_on, shared, until};

/// A namespace with a Service `api`, port 80 on 8080, and these openings.
async fn opened(lab: &Lab, namespace: &str, allow: Value) {
    lab.namespace(namespace).await;
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    lab.service(
        namespace,
        "api",
        json!({"selector": {"app": "api"}, "ports": ports}),
    )
    .await;
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

/// The definition of HTTPRoutes, without their schema.
fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({
        "metadata": {
            "name": "httproutes.gateway.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/891"},
        },
        "spec": {
            "group": "gateway.networking.k8s.io",
            "scope": "Namespaced",
            "names": {"kind": "HTTPRoute", "plural": "httproutes"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    })
}

#[test]
fn a_kind_that_appears_is_watched_until_it_goes() {
    let lab = shared();
    block_on(async {
        let allow =
            json!({"ingressControllers": {"from": [{"podSelector": {"matchLabels": {"app": "gateway"}}}]}});
        opened(lab, "routed", allow).await;
        for round in ["first", "second"] {
            lab.create::<CustomResourceDefinition>(None, definition()).await;
            let route = json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "site"},
                "spec": {"rules": [{"backendRefs": [{"name": "api", "port": 80}]}]},
            });
            let route: HTTPRoute = serde_json::from_value(route).unwrap();
            let routes = lab.api::<HTTPRoute>("routed");
            until(
                &format!("the kind to be served, {round} time"),
                LIMIT,
                async || {
                    let created = routes.create(&kube::api::PostParams::default(), &route).await;
                    created.map(|_| ()).map_err(|error| error.to_string())
                },
            )
            .await;
            policies_number(lab, "routed", "ringfence-controllers-", 2).await;
            let definitions: Api<CustomResourceDefinition> = Api::all(lab.client.clone());
            let name = "httproutes.gateway.networking.k8s.io";
            definitions.delete(name, &DeleteParams::default()).await.unwrap();
            policies_number(lab, "routed", "ringfence-controllers-", 0).await;
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
