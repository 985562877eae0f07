//! What users, neighbours and accidents do to an operator.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use ringfence_crd::{ExternalAccess, ServiceAccess, ZeroTrustNamespace};
use ringfence_operator::leader::Timing;
use ringfence_tests::source;
use serde_json::{Value, json};

use crate::lab::{AGAIN, LIMIT, Lab, block_on, shared, until};
use crate::running::Running;

fn apps(count: usize) -> Value {
    let client = |n: usize| json!({"podSelector": {"matchLabels": {"app": format!("app-{n}")}}});
    (0..count).map(client).collect()
}

#[test]
fn a_grant_for_another_namespaces_service_is_a_grant_for_nothing() {
    let lab = shared();
    block_on(async {
        lab.shop("victim").await;
        lab.shop_is_ready("victim").await;
        let before = versions(&lab.policies("victim").await);
        lab.namespace("intruder").await;
        lab.zero_trust("intruder").await;
        // The API has no field for the namespace of the target, and says so to whoever asks for strictness.
        let spec =
            json!({"targetRef": {"name": "api", "namespace": "victim"}, "clients": [{"podSelector": {}}]});
        let object = json!({"apiVersion": "ringfence.dev/v1alpha1", "kind": "ServiceAccess", "metadata": {"name": "api"}, "spec": spec});
        let path = "/apis/ringfence.dev/v1alpha1/namespaces/intruder/serviceaccesses?fieldValidation=Strict";
        let request = kube::core::Request::new(path)
            .create(&PostParams::default(), serde_json::to_vec(&object).unwrap());
        // kube adds its own query, so the strict form is asked for by path alone.
        let mut request = request.unwrap();
        *request.uri_mut() = path.parse().unwrap();
        let said = lab
            .client
            .request::<Value>(request)
            .await
            .unwrap_err()
            .to_string();
        assert!(said.contains("spec.targetRef.namespace"), "{said}");

        lab.create::<ServiceAccess>(
            Some("intruder"),
            json!({"metadata": {"name": "api"}, "spec": spec}),
        )
        .await;
        lab.says::<ServiceAccess>("intruder", "api", "ResolvedRefs", "False/TargetNotFound")
            .await;
        assert_eq!(versions(&lab.policies("victim").await), before);
        let names = lab.names("intruder").await;
        assert!(!names.iter().any(|name| name.contains("access")), "{names:?}");
    });
}

#[test]
fn names_may_be_as_long_as_they_may_be() {
    let lab = shared();
    block_on(async {
        let (namespace, client) = ("n".repeat(63), "c".repeat(63));
        let (service, account) = ("s".repeat(63), "a".repeat(253));
        for name in [&namespace, &client] {
            lab.namespace(name).await;
            lab.create::<ZeroTrustNamespace>(
                Some(name),
                json!({"metadata": {"name": "default"},
                "spec": {"mode": "Enforce", "acceptEgressFrom": [{"namespace": namespace}]}}),
            )
            .await;
        }
        lab.http_service(&namespace, &service).await;
        let clients = json!([{"namespace": client}, {"namespace": client, "serviceAccount": account}, {"serviceAccount": account}]);
        lab.access(&namespace, &service, clients).await;
        let spec = json!({"podSelector": {}, "egress": [{"to": [{"cidr": "203.0.113.0/24"}]}]});
        lab.create::<ExternalAccess>(
            Some(&namespace),
            json!({"metadata": {"name": "e".repeat(63)}, "spec": spec}),
        )
        .await;
        lab.says::<ServiceAccess>(&namespace, &service, "Ready", "True/AsExpected")
            .await;
        lab.says::<ExternalAccess>(&namespace, &"e".repeat(63), "Ready", "True/AsExpected")
            .await;
        lab.policies_are(&client, "both egress policies", |names| {
            names
                .iter()
                .filter(|name| name.starts_with("ringfence-access-egress"))
                .count()
                == 2
        })
        .await;
    });
}

#[test]
fn five_hundred_clients_are_let_in_and_out_also_across_an_outage_in_the_middle() {
    let mut lab = Lab::start();
    let running = lab.operator("many");
    block_on(async {
        lab.namespace("many").await;
        lab.http_service("many", "api").await;
        lab.zero_trust("many").await;
        lab.says::<ZeroTrustNamespace>("many", "default", "Ready", "True")
            .await;
        lab.access("many", "api", apps(500)).await;
        lab.policies_are("many", "some of five hundred", |names| names.len() > 50)
            .await;
    });
    lab.server.stop().unwrap();
    lab.server.resume().unwrap();
    block_on(async {
        until("the API server to answer", LIMIT, async || {
            let api = lab.api::<NetworkPolicy>("many");
            let answer = api.list(&kube::api::ListParams::default()).await;
            answer.map(|_| ()).map_err(|error| error.to_string())
        })
        .await;
        until("all policies to be there", AGAIN, async || {
            let names = lab.names("many").await;
            let count = |purpose: &str| names.iter().filter(|name| name.contains(purpose)).count();
            let found = (count("access-ingress"), count("access-egress"), names.len());
            // Three more are the namespace's own: two that deny, and the way to DNS.
            if found == (2, 500, 505) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await;
        lab.says::<ServiceAccess>("many", "api", "Ready", "True/AsExpected")
            .await;
        lab.says::<ZeroTrustNamespace>("many", "default", "Ready", "True/AsExpected")
            .await;
        running.stop().await;
    });
}

#[test]
fn a_kind_that_is_removed_and_comes_back_needs_no_restart() {
    let lab = Lab::start();
    let running = lab.operator("kinds");
    block_on(async {
        lab.shop("kinds").await;
        lab.shop_is_ready("kinds").await;
        let outside = json!({"metadata": {"name": "out"}, "spec": {"podSelector": {}, "egress": [{"to": [{"cidr": "203.0.113.0/24"}]}]}});
        lab.create::<ExternalAccess>(Some("kinds"), outside.clone()).await;
        lab.says::<ExternalAccess>("kinds", "out", "Ready", "True/AsExpected")
            .await;
        let definitions: Api<CustomResourceDefinition> = Api::all(lab.client.clone());
        let name = "externalaccesses.ringfence.dev";
        definitions.delete(name, &DeleteParams::default()).await.unwrap();
        until("the definition to go", LIMIT, async || {
            let left = definitions.get_opt(name).await.unwrap();
            left.is_none().then_some(()).ok_or_else(String::new)
        })
        .await;
        // What it opened closes, and everything else goes on.
        let outside_is =
            |open: bool| move |names: &[String]| names.iter().any(|name| name.contains("external")) == open;
        lab.policies_are("kinds", "without the outside", outside_is(false))
            .await;
        lab.shop("kinds-more").await;
        lab.shop_is_ready("kinds-more").await;

        let applied = lab
            .server
            .kubectl(["apply", "-f", &source::path("config/crd/externalaccesses.yaml")])
            .status()
            .unwrap();
        assert!(applied.success());
        let path = "/apis/ringfence.dev/v1alpha1/namespaces/kinds/externalaccesses";
        until("the kind to be served again", LIMIT, async || {
            let request = kube::core::Request::new(path)
                .list(&kube::api::ListParams::default())
                .unwrap();
            let answer = lab.client.request::<Value>(request).await;
            answer.map(|_| ()).map_err(|error| error.to_string())
        })
        .await;
        lab.create::<ExternalAccess>(Some("kinds"), outside).await;
        until("the outside to be open again", AGAIN, async || {
            let names = lab.names("kinds").await;
            if outside_is(true)(&names) {
                Ok(())
            } else {
                Err(format!("{names:?}"))
            }
        })
        .await;
        lab.says::<ExternalAccess>("kinds", "out", "Ready", "True/AsExpected")
            .await;
        running.stop().await;
    });
}

#[test]
fn in_a_namespace_that_is_going_nothing_is_put_back_and_nothing_fails() {
    let lab = Lab::start();
    let running = lab.operator("going");
    block_on(async {
        lab.shop("going").await;
        lab.shop_is_ready("going").await;
        // Nobody finishes the deletion here, so the namespace stays on its way out.
        let namespaces: Api<Namespace> = Api::all(lab.client.clone());
        namespaces
            .delete("going", &DeleteParams::default())
            .await
            .unwrap();
        until("the namespace to be going", LIMIT, async || {
            let going = namespaces.get("going").await.unwrap();
            going
                .metadata
                .deletion_timestamp
                .map(|_| ())
                .ok_or_else(String::new)
        })
        .await;
        // News of namespaces come in their order: who closes this one knows that the other is going.
        lab.shop("staying").await;
        lab.shop_is_ready("staying").await;
        for name in lab.names("going").await {
            lab.api::<NetworkPolicy>("going")
                .delete(&name, &DeleteParams::default())
                .await
                .unwrap();
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(lab.names("going").await.is_empty());
        assert_eq!(failures(&running).await, Vec::<String>::new());
        running.stop().await;
    });
}

/// What went wrong in looks, as metrics tell, but for objects that changed meanwhile.
async fn failures(running: &Running) -> Vec<String> {
    let lines = running.metrics().await.into_iter();
    lines
        .filter(|line| line.starts_with("ringfence_operator_reconciles_total"))
        .filter(|line| !line.contains(r#"result="ok""#) && !line.contains("Conflict"))
        .collect()
}

#[test]
fn two_operators_that_both_believe_to_lead_do_no_harm_and_come_to_rest() {
    let lab = Lab::start();
    let one = lab.operator_by("one", Timing::default(), "one");
    let other = lab.operator_by("other", Timing::default(), "other");
    block_on(async {
        for namespace in ["split-a", "split-b"] {
            lab.shop(namespace).await;
        }
        for n in 0..10 {
            let change = json!({"spec": {"clients": apps(n + 1)}});
            lab.patch::<ServiceAccess>("split-a", "api", change).await;
        }
        for namespace in ["split-a", "split-b"] {
            lab.shop_is_ready(namespace).await;
        }
        lab.policies_are("split-a", "ten clients' egress", |names| {
            names.iter().filter(|name| name.contains("access-egress")).count() == 10
        })
        .await;
        let mut before = versions(&lab.policies("split-a").await);
        until("both to come to rest", LIMIT, async || {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let now = versions(&lab.policies("split-a").await);
            let still = now == before;
            before = now;
            if still { Ok(()) } else { Err(format!("{before:?}")) }
        })
        .await;
        assert!(one.leads().await && other.leads().await);
        one.stop().await;
        other.stop().await;
    });
}

#[test]
fn a_policy_that_says_it_is_an_external_accesss_gains_nothing() {
    let lab = shared();
    block_on(async {
        lab.namespace("forged-origin").await;
        lab.zero_trust("forged-origin").await;
        let spec = json!({"podSelector": {}, "egress": [{"to": [{"cidr": "203.0.113.0/24"}]}]});
        let external: ExternalAccess = lab
            .create(
                Some("forged-origin"),
                json!({"metadata": {"name": "out"}, "spec": spec}),
            )
            .await;
        lab.says::<ExternalAccess>("forged-origin", "out", "Ready", "True/AsExpected")
            .await;
        let own = lab.policy("forged-origin", "ringfence-external-egress").await;
        let forged = json!({
            "metadata": {"name": "mine", "labels": own.labels(), "annotations": own.annotations()},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]},
        });
        lab.create::<NetworkPolicy>(Some("forged-origin"), forged).await;
        // It is told as what it is: somebody's policy that opens more.
        lab.says::<ZeroTrustNamespace>("forged-origin", "default", "Programmed", "True/Programmed")
            .await;
        lab.api::<ExternalAccess>("forged-origin")
            .delete(&external.name_any(), &DeleteParams::default())
            .await
            .unwrap();
        lab.policies_are("forged-origin", "without ours and with theirs", |names| {
            names.contains(&"mine".to_owned()) && !names.iter().any(|name| name.contains("external"))
        })
        .await;
    });
}

fn versions(policies: &[NetworkPolicy]) -> Vec<(String, Option<String>)> {
    let version = |policy: &NetworkPolicy| (policy.name_any(), policy.resource_version());
    policies.iter().map(version).collect()
}
