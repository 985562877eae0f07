//! What follows from what users write.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::DeleteParams;
use ringfence_crd::{ServiceAccess, ZeroTrustNamespace, ZeroTrustNamespaceStatus};
use serde_json::json;

use crate::lab::{LIMIT, Lab, block_on, condition, shared, until};

#[test]
fn what_is_written_becomes_policies_with_both_owners_and_good_statuses() {
    let lab = shared();
    block_on(async {
        lab.shop("written").await;
        let names = lab.shop_is_ready("written").await;
        let expected = [
            "deny-ingress",
            "deny-egress",
            "dns",
            "access-ingress-api",
            "access-egress-api",
        ];
        for purpose in expected {
            let found = names
                .iter()
                .any(|name| name.starts_with(&format!("ringfence-{purpose}")));
            assert!(found, "{purpose} is not among {names:?}");
        }
        assert_eq!(names.len(), expected.len(), "{names:?}");

        let deny = lab.policy("written", "ringfence-deny-ingress").await;
        let owners: Vec<_> = deny
            .owner_references()
            .iter()
            .map(|owner| owner.kind.as_str())
            .collect();
        assert_eq!(owners, ["ZeroTrustNamespace", "CustomResourceDefinition"]);
        let status = told_of(lab, "written", &names).await;
        let conditions = json!(status.conditions);
        assert_eq!(condition(&conditions, "Programmed"), "True/Programmed");
        assert_eq!(condition(&conditions, "Enforced"), "Unknown/NoEnforcer");
    });
}

/// The status of a namespace's resource when it tells of these policies.
async fn told_of(lab: &Lab, namespace: &str, names: &[String]) -> ZeroTrustNamespaceStatus {
    let api = lab.api::<ZeroTrustNamespace>(namespace);
    until("the status to tell of all policies", LIMIT, async || {
        let resource = api.get("default").await.unwrap();
        assert!(resource.finalizers().is_empty(), "{:?}", resource.finalizers());
        let generation = resource.metadata.generation;
        let status = resource.status.unwrap();
        let mut recorded: Vec<_> = status.policies.iter().map(|record| record.name.clone()).collect();
        recorded.sort();
        let count = Some(i32::try_from(names.len()).unwrap());
        if status.observed_generation == generation && status.policy_count == count && recorded == names {
            Ok(status)
        } else {
            Err(format!("{:?} {recorded:?}", status.policy_count))
        }
    })
    .await
}

#[test]
fn deleting_a_zero_trust_namespace_leaves_no_generated_policy_and_every_other() {
    let lab = shared();
    block_on(async {
        lab.shop("opened").await;
        lab.shop_is_ready("opened").await;
        let own =
            json!({"metadata": {"name": "own"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
        lab.create::<NetworkPolicy>(Some("opened"), own).await;
        let api = lab.api::<ZeroTrustNamespace>("opened");
        api.delete("default", &DeleteParams::default()).await.unwrap();
        lab.policies_are("opened", "the hand-made one", |names| names == ["own"])
            .await;
        lab.says::<ServiceAccess>("opened", "api", "Accepted", "True/NotNeeded")
            .await;
    });
}

#[test]
fn a_service_that_goes_closes_its_path_and_nothing_else_and_comes_back() {
    let lab = shared();
    block_on(async {
        lab.shop("vanished").await;
        let ports = json!([{"port": 5432}]);
        lab.service(
            "vanished",
            "db",
            json!({"selector": {"app": "db"}, "ports": ports}),
        )
        .await;
        lab.access(
            "vanished",
            "db",
            json!([{"podSelector": {"matchLabels": {"app": "api"}}}]),
        )
        .await;
        lab.shop_is_ready("vanished").await;
        lab.says::<ServiceAccess>("vanished", "db", "Ready", "True").await;
        let grants = |service: &str, names: &[String]| {
            let ingress = format!("access-ingress-{service}");
            names.iter().any(|name| name.contains(&ingress))
        };
        let both = |names: &[String]| grants("api", names) && grants("db", names);
        lab.policies_are("vanished", "those of both", both).await;

        lab.api::<Service>("vanished")
            .delete("api", &DeleteParams::default())
            .await
            .unwrap();
        let one = |names: &[String]| !names.iter().any(|name| name.contains("-api-")) && grants("db", names);
        lab.policies_are("vanished", "those of the other", one).await;
        lab.says::<ServiceAccess>("vanished", "api", "ResolvedRefs", "False/TargetNotFound")
            .await;
        until("an Event about it", LIMIT, async || {
            let told = lab.events("vanished", "TargetNotFound").await;
            let about = told.iter().any(|note| note.contains("api"));
            about.then_some(()).ok_or_else(|| format!("{told:?}"))
        })
        .await;

        let ports = json!([{"name": "http", "port": 80, "targetPort": 9090}]);
        lab.service(
            "vanished",
            "api",
            json!({"selector": {"app": "api"}, "ports": ports}),
        )
        .await;
        lab.shop_is_ready("vanished").await;
        let policy = lab.policy("vanished", "ringfence-access-ingress-api").await;
        assert!(json!(policy.spec).to_string().contains("9090"), "{policy:?}");
    });
}

#[test]
fn egress_opens_on_the_clients_side_when_its_namespace_consents_and_closes_with_the_grant() {
    let lab = shared();
    block_on(async {
        lab.namespace("caller").await;
        lab.zero_trust("caller").await;
        lab.shop("callee").await;
        lab.shop_is_ready("callee").await;
        let carts = json!([{"namespace": "caller", "podSelector": {"matchLabels": {"app": "cart"}}}]);
        lab.patch::<ServiceAccess>("callee", "api", json!({"spec": {"clients": carts}}))
            .await;
        let egress = |names: &[String]| {
            names
                .iter()
                .any(|name| name.starts_with("ringfence-access-egress"))
        };
        lab.says::<ServiceAccess>("callee", "api", "ResolvedRefs", "False/PendingConsent")
            .await;
        lab.policies_are("caller", "without egress", |names| !egress(names))
            .await;

        let consent = json!({"spec": {"acceptEgressFrom": [{"namespace": "callee"}]}});
        lab.patch::<ZeroTrustNamespace>("caller", "default", consent)
            .await;
        lab.policies_are("caller", "with egress", egress).await;
        lab.says::<ServiceAccess>("callee", "api", "ResolvedRefs", "True")
            .await;
        let policy = lab.policy("caller", "ringfence-access-egress").await;
        assert_eq!(
            policy.owner_references()[0].kind,
            "ZeroTrustNamespace",
            "an owner of its own namespace"
        );

        lab.api::<ServiceAccess>("callee")
            .delete("api", &DeleteParams::default())
            .await
            .unwrap();
        lab.policies_are("caller", "without egress", |names| !egress(names))
            .await;
    });
}

#[test]
fn one_broken_grant_does_not_stop_the_others() {
    let lab = shared();
    block_on(async {
        lab.shop("mixed").await;
        lab.access("mixed", "missing", json!([{"podSelector": {}}])).await;
        lab.says::<ServiceAccess>("mixed", "missing", "ResolvedRefs", "False/TargetNotFound")
            .await;
        lab.says::<ServiceAccess>("mixed", "api", "Ready", "True/AsExpected")
            .await;
        lab.policy("mixed", "ringfence-access-ingress-api").await;
    });
}
