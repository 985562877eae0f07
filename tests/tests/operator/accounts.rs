//! ServiceAccounts as identity: what admission makes of pods, and what the operator makes of their stamps.

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use ringfence_crd::ServiceAccess;
use ringfence_operator::accounts::{STAMP_LABEL, account_of, carries, stamp};
use serde_json::{Value, json};

use crate::admission::refused;
use crate::lab::{LIMIT, Lab, block_on, shared, until};

fn pod(name: &str, account: &str, labels: &Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels},
        "spec": {"serviceAccountName": account, "containers": [{"name": "main", "image": "none"}]}})
}

/// Creates a pod as soon as the admission policies are in force, which is a moment after they are written.
async fn create(lab: &Lab, namespace: &str, object: Value) -> Pod {
    let mut trial = object.clone();
    trial["metadata"]["name"] = json!("trial");
    trial["apiVersion"] = json!("v1");
    trial["kind"] = json!("Pod");
    until("pods to be stamped", LIMIT, async || {
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let trial = serde_json::from_value(trial.clone()).unwrap();
        let created: Pod = lab
            .api(namespace)
            .create(&params, &trial)
            .await
            .map_err(|error| error.to_string())?;
        if account_of(&created).is_some_and(|account| carries(created.labels(), account)) {
            Ok(())
        } else {
            Err(format!("{:?}", created.labels()))
        }
    })
    .await;
    lab.create(Some(namespace), object).await
}

/// Gives a pod an address, as a kubelet does.
async fn address(lab: &Lab, namespace: &str, name: &str, ip: &str) {
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
    lab.api::<Pod>(namespace)
        .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
}

/// Waits until the ingress rule of `api` has exactly these peers.
async fn peers_are(lab: &Lab, namespace: &str, wanted: &Value) {
    until(
        &format!("the peers of {namespace} to be {wanted}"),
        LIMIT,
        async || {
            let policies = lab.policies(namespace).await;
            let found = policies
                .iter()
                .find(|policy| policy.name_any().starts_with("ringfence-access-ingress"));
            let peers =
                found.map(|policy| json!(policy.spec.as_ref().unwrap().ingress.as_ref().unwrap()[0].from));
            if peers.as_ref().unwrap_or(&Value::Null) == wanted {
                Ok(())
            } else {
                Err(format!("{peers:?}"))
            }
        },
    )
    .await;
}

fn stamped() -> Value {
    json!([{"podSelector": {"matchExpressions": [{"key": STAMP_LABEL, "operator": "In", "values": ["cart"]}]}}])
}

async fn shop(lab: &Lab, namespace: &str) {
    lab.namespace(namespace).await;
    lab.http_service(namespace, "api").await;
    lab.zero_trust(namespace).await;
    lab.access(namespace, "api", json!([{"serviceAccount": "cart"}]))
        .await;
}

#[test]
fn admission_stamps_every_pod_as_the_operator_expects_it() {
    let lab = shared();
    block_on(async {
        lab.namespace("stamps").await;
        let long = |length: usize| {
            "abcdefghi.".repeat(26)[..length]
                .replace("..", "a")
                .trim_end_matches('.')
                .to_owned()
        };
        for account in [
            "default".to_owned(),
            "x".repeat(63),
            "y".repeat(64),
            "z".repeat(122),
            long(123),
            long(253),
        ] {
            let forged = json!({"app": "x", STAMP_LABEL: "admin", "ringfence.dev/service-account-5": "XaZ"});
            let created = create(
                lab,
                "stamps",
                pod(&format!("p{}", account.len()), &account, &forged),
            )
            .await;
            let mut expected = stamp(&account);
            expected.insert("app".to_owned(), "x".to_owned());
            assert_eq!(*created.labels(), expected, "{account}");
        }
        let bare = json!({"metadata": {"name": "bare"}, "spec": {"serviceAccountName": "cart",
            "containers": [{"name": "main", "image": "none"}]}});
        let created = create(lab, "stamps", bare).await;
        assert!(
            carries(created.labels(), "cart") && created.labels().len() == 1,
            "{:?}",
            created.labels()
        );
    });
}

#[test]
fn a_stamp_cannot_be_forged_afterwards_either() {
    let lab = shared();
    block_on(async {
        lab.namespace("forgers").await;
        create(lab, "forgers", pod("forger", "default", &json!({}))).await;
        let forged = json!({"metadata": {"labels": {STAMP_LABEL: "cart"}}});
        let edited: Pod = lab.patch("forgers", "forger", forged.clone()).await;
        assert_eq!(edited.labels()[STAMP_LABEL], "default", "an edit is stamped anew");
        let removed: Pod = lab
            .patch(
                "forgers",
                "forger",
                json!({"metadata": {"labels": {STAMP_LABEL: null}}}),
            )
            .await;
        assert_eq!(removed.labels()[STAMP_LABEL], "default");

        // The three policies are in force one after the other.
        let path = "/api/v1/namespaces/forgers/pods/forger";
        let words = "runs, which is 'default' here";
        refused(&lab.client, "PATCH", &format!("{path}/status"), &forged, words).await;

        let binding = json!({"apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": "forger", "labels": {"ringfence.dev/service-account-2": "XaZ"}},
            "target": {"kind": "Node", "name": "somewhere"}});
        let words = "a Binding must not carry labels";
        refused(&lab.client, "POST", &format!("{path}/binding"), &binding, words).await;
    });
}

#[test]
fn an_account_is_known_by_its_stamp_and_without_protection_by_its_pods_addresses() {
    let lab = Lab::start();
    let running = lab.operator("accounts");
    block_on(async {
        shop(&lab, "accounts").await;
        create(&lab, "accounts", pod("cart-0", "cart", &json!({}))).await;
        create(&lab, "accounts", pod("stranger", "default", &json!({}))).await;
        address(&lab, "accounts", "cart-0", "10.7.0.1").await;
        address(&lab, "accounts", "stranger", "10.7.0.2").await;
        peers_are(&lab, "accounts", &stamped()).await;
        lab.says::<ServiceAccess>("accounts", "api", "Ready", "True/AsExpected")
            .await;

        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(lab.client.clone());
        let binding = bindings.get("ringfence-service-account-stamp").await.unwrap();
        bindings
            .delete("ringfence-service-account-stamp", &DeleteParams::default())
            .await
            .unwrap();
        peers_are(&lab, "accounts", &json!([{"ipBlock": {"cidr": "10.7.0.1/32"}}])).await;
        lab.says::<ServiceAccess>("accounts", "api", "ResolvedRefs", "False/PodsUnstamped")
            .await;

        // Pods that come and go are followed.
        create(&lab, "accounts", pod("cart-1", "cart", &json!({}))).await;
        address(&lab, "accounts", "cart-1", "fd00::1").await;
        peers_are(
            &lab,
            "accounts",
            &json!([{"ipBlock": {"cidr": "10.7.0.1/32"}}, {"ipBlock": {"cidr": "fd00::1/128"}}]),
        )
        .await;
        let now = DeleteParams::default().grace_period(0);
        lab.api::<Pod>("accounts").delete("cart-0", &now).await.unwrap();
        peers_are(&lab, "accounts", &json!([{"ipBlock": {"cidr": "fd00::1/128"}}])).await;

        let again = json!({"metadata": {"name": binding.name_any(), "labels": binding.labels()}, "spec": binding.spec});
        lab.create::<ValidatingAdmissionPolicyBinding>(None, again).await;
        peers_are(&lab, "accounts", &stamped()).await;
        running.stop().await;
    });
}
