//! Generated policies under protection, and everything at once.

use ringfence_crd::{ServiceAccess, ZeroTrustNamespace};
use ringfence_operator::leader::{Fence, Timing};
use ringfence_operator::uninstall::uninstall;
use ringfence_tests::source;
use serde_json::{Value, json};

use super::{RINGFENCE, accepted, networkpolicies, pod, policy, put_in_force, refused};
use crate::identity::{COLLECTOR, Identity, NAMESPACE_CONTROLLER, OPERATOR, ask};
use crate::lab::{LIMIT, Lab, apply, block_on, until};
use crate::running::Running;

const WORDS: &str = "this policy is generated";

/// All policies, by folder.
const ALL: [&str; 5] = [
    "require-zero-trust",
    "forbid-foreign-policies",
    "forbid-allow-all",
    "protect-generated",
    "node-enforcement",
];

/// An operator that may do what RBAC lets its ServiceAccount do, and a shop.
fn operator_and_shop(lab: &Lab) -> Running {
    apply(&lab.server, "config/rbac/operator");
    let config = Identity::plain(OPERATOR).config(lab);
    let running = Lab::operator_through(config, "account", Timing::default(), "ringfence-operator");
    block_on(async {
        lab.shop("closed").await;
        lab.shop_is_ready("closed").await;
    });
    running
}

#[test]
fn generated_policies_are_changed_by_the_operator_and_taken_by_controllers_only() {
    let lab = Lab::start();
    put_in_force(&lab, &["protect-generated"]);
    let running = operator_and_shop(&lab);
    block_on(async {
        let all = networkpolicies("closed");
        let deny = format!("{all}/ringfence-deny-ingress");
        refused(&lab.client, "DELETE", &deny, &Value::Null, WORDS).await;
        refused(&lab.client, "DELETE", &all, &Value::Null, WORDS).await;
        let wider = json!({"spec": {"ingress": [{}]}});
        refused(&lab.client, "PATCH", &deny, &wider, WORDS).await;
        let bare = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}});
        refused(&lab.client, "PATCH", &deny, &bare, WORDS).await;

        // Both controllers with the rights that they have in every cluster.
        let collector = Identity::plain(COLLECTOR).client(&lab);
        let orphan = json!({"metadata": {"ownerReferences": null}});
        accepted(&collector, "PATCH", &deny, &orphan).await;
        accepted(&collector, "DELETE", &deny, &Value::Null).await;
        let emptier = Identity::plain(NAMESPACE_CONTROLLER).client(&lab);
        accepted(&emptier, "DELETE", &all, &Value::Null).await;
        // The operator itself is not held up.
        let clients = json!({"spec": {"clients": [{"podSelector": {}}]}});
        lab.patch::<ServiceAccess>("closed", "api", clients).await;
        until("the grant to be written anew", LIMIT, async || {
            let spec = json!(lab.policy("closed", "ringfence-access-ingress").await.spec);
            let peer = &spec["ingress"][0]["from"][0]["podSelector"];
            peer["matchLabels"]
                .is_null()
                .then_some(())
                .ok_or_else(|| spec.to_string())
        })
        .await;
        running.stop().await;
    });
}

#[test]
fn nobody_passes_a_policy_off_as_generated() {
    let lab = Lab::start();
    put_in_force(&lab, &["protect-generated"]);
    block_on(async {
        lab.namespace("open").await;
        let (all, words) = (networkpolicies("open"), "leave them out");
        let audits = format!("{RINGFENCE}/namespaces/open/auditnetworkpolicies");
        let operator = Identity::mighty(OPERATOR).client(&lab);
        for (key, value) in [
            ("app.kubernetes.io/managed-by", "ringfence-operator"),
            ("ringfence.dev/purpose", "dns"),
            ("ringfence.dev/origin-uid", "x"),
        ] {
            let mut forged = policy("forged", &json!({"podSelector": {}}));
            forged["metadata"]["labels"] = json!({key: value});
            refused(&lab.client, "POST", &all, &forged, words).await;
            accepted(&operator, "POST", &all, &forged).await;
            forged["apiVersion"] = json!("ringfence.dev/v1alpha1");
            forged["kind"] = json!("AuditNetworkPolicy");
            refused(&lab.client, "POST", &audits, &forged, words).await;
            accepted(&operator, "POST", &audits, &forged).await;
        }
        // Everybody's own policies are nobody else's business.
        let mut own = policy("own", &json!({"podSelector": {}}));
        own["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "helm"});
        ask(&lab.client, "POST", &all, &own).await.unwrap();
        let own = format!("{all}/own");
        let adopt = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "ringfence-operator"}}});
        refused(&lab.client, "PATCH", &own, &adopt, WORDS).await;
        let wider = json!({"spec": {"ingress": [{}]}});
        accepted(&lab.client, "PATCH", &own, &wider).await;
        accepted(&lab.client, "DELETE", &own, &Value::Null).await;
    });
}

#[test]
fn with_all_of_them_on_the_operator_works_and_opens_everything_again() {
    let lab = Lab::start();
    put_in_force(&lab, &ALL);
    // What uninstalls as that very account: nobody runs it here, but the API server takes it.
    apply(&lab.server, "config/uninstall");
    let running = operator_and_shop(&lab);
    block_on(async {
        let all = networkpolicies("closed");
        refused(&lab.client, "DELETE", &all, &Value::Null, WORDS).await;
        let own = policy("own", &json!({"podSelector": {}}));
        refused(&lab.client, "POST", &all, &own, "ServiceAccess").await;
        running.stop().await;

        let account = Identity::plain(OPERATOR).client(&lab);
        let opened = uninstall(&account, Fence::open_for(LIMIT)).await.unwrap();
        assert_eq!(opened.keys().collect::<Vec<_>>(), ["closed"]);
        assert_eq!(lab.names("closed").await, Vec::<String>::new());
        lab.api::<ZeroTrustNamespace>("closed")
            .get("default")
            .await
            .unwrap();
    });
}

#[test]
fn without_the_definition_policies_may_be_written_and_pods_wait() {
    let lab = Lab::start();
    put_in_force(&lab, &ALL);
    block_on(async {
        lab.namespace("open").await;
        lab.zero_trust("open").await;
        let all = networkpolicies("open");
        let open = policy("own", &json!({"podSelector": {}, "ingress": [{}]}));
        refused(&lab.client, "POST", &all, &open, "ServiceAccess").await;
        let definition =
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/zerotrustnamespaces.ringfence.dev";
        ask(&lab.client, "DELETE", definition, &Value::Null)
            .await
            .unwrap();
        accepted(&lab.client, "POST", &all, &open).await;
        let pods = "/api/v1/namespaces/open/pods";
        let remedy = "create-a-zerotrustnamespace-named-default-in-this-namespace-first";
        refused(&lab.client, "POST", pods, &pod(), remedy).await;
        let taken = lab
            .server
            .kubectl([
                "delete",
                "-k",
                &source::path("config/admission/require-zero-trust"),
            ])
            .status()
            .unwrap();
        assert!(taken.success());
        accepted(&lab.client, "POST", pods, &pod()).await;
    });
}
