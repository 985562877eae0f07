//! Replicas that come and go, and what goes on without them. Each test has an API server of its own.

use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use ringfence_crd::ZeroTrustNamespace;
use ringfence_operator::leader::{Fence, Timing};
use ringfence_operator::uninstall::uninstall;
use serde_json::json;

use crate::lab::{AGAIN, LIMIT, Lab, block_on, until};
use crate::running::Running;

/// Short enough for a test, with the same proportions.
const QUICK: Timing = Timing {
    duration: Duration::from_secs(3),
    deadline: Duration::from_secs(2),
    renew: Duration::from_millis(800),
    retry: Duration::from_millis(400),
};

/// Longer than anything waits here: a Lease of it passes on by being given up, or not at all.
const PATIENT: Timing = Timing {
    duration: Duration::from_secs(90),
    deadline: Duration::from_secs(60),
    renew: Duration::from_secs(4),
    retry: Duration::from_secs(5),
};

async fn is_open(lab: &Lab, namespace: &str) {
    lab.policies_are(namespace, "none", <[String]>::is_empty).await;
}

async fn leads(running: &Running, limit: Duration) {
    until("an operator to lead", limit, async || {
        running.leads().await.then_some(()).ok_or(String::new())
    })
    .await;
}

async fn delete_zero_trust(lab: &Lab, namespace: &str) {
    lab.api::<ZeroTrustNamespace>(namespace)
        .delete("default", &DeleteParams::default())
        .await
        .unwrap();
}

#[test]
fn an_idle_operator_writes_nothing() {
    let lab = Lab::start();
    let running = lab.operator("idle");
    block_on(async {
        for namespace in ["one", "two"] {
            lab.shop(namespace).await;
            lab.shop_is_ready(namespace).await;
        }
        // What was caused last may still have echoes: begin when the counters have stood still for a while.
        let mut before = running.writes().await;
        assert!(!before.is_empty(), "it has written before");
        until("the counters to stand still", LIMIT, async || {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let now = running.writes().await;
            let still = now == before;
            before = now;
            if still { Ok(()) } else { Err(format!("{before:?}")) }
        })
        .await;
        // The span is long enough for every timer of the operator: backoff, renewal, debounce.
        let seconds = std::env::var("RINGFENCE_IDLE_SECONDS")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(12);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert_eq!(running.writes().await, before);
        running.stop().await;
    });
}

#[test]
fn when_the_leader_goes_another_replica_takes_over() {
    let lab = Lab::start();
    let first = lab.operator_with("first", PATIENT);
    block_on(async {
        leads(&first, LIMIT).await;
        let second = lab.operator_with("second", QUICK);
        lab.shop("one").await;
        lab.shop_is_ready("one").await;
        assert!(
            !second.leads().await && second.writes().await.is_empty(),
            "the one that stands by writes nothing"
        );

        first.stop().await;
        // A Lease that was given up need not expire.
        leads(&second, LIMIT).await;
        lab.shop("two").await;
        lab.shop_is_ready("two").await;

        let third = lab.operator_with("third", QUICK);
        second.kill().await;
        leads(&third, LIMIT).await;
        delete_zero_trust(&lab, "one").await;
        is_open(&lab, "one").await;
        third.stop().await;
    });
}

#[test]
fn an_operator_killed_at_any_step_leaves_what_its_successor_finishes() {
    let lab = Lab::start();
    block_on(async {
        lab.shop("one").await;
        let reader = json!([{"podSelector": {"matchLabels": {"app": "reader"}}}]);
        for number in 0..8 {
            let name = format!("s{number}");
            let spec = json!({"selector": {"app": name}, "ports": [{"port": 80}]});
            lab.service("one", &name, spec).await;
            lab.access("one", &name, reader.clone()).await;
        }
        // Killed after so many policies: in the midst of closing, of what follows, and of opening again.
        for count in [1, 2, 5, 9] {
            let running = lab.operator_with(&format!("killed-after-{count}"), QUICK);
            until("some policies", LIMIT, async || {
                let there = lab.policies("one").await.len();
                if there >= count {
                    Ok(())
                } else {
                    Err(format!("{there}"))
                }
            })
            .await;
            running.kill().await;
        }
        let last = lab.operator_with("closes", QUICK);
        let names = lab.shop_is_ready("one").await;
        assert_eq!(
            names
                .iter()
                .filter(|name| name.contains("access-ingress"))
                .count(),
            9,
            "{names:?}"
        );
        assert!(names.iter().all(|name| !name.contains("bridge")), "{names:?}");
        let all = names.len();

        delete_zero_trust(&lab, "one").await;
        until("the first policy to go, or a bridge to come", LIMIT, async || {
            let there = lab.policies("one").await.len();
            if there == all { Err(String::new()) } else { Ok(()) }
        })
        .await;
        last.kill().await;
        let successor = lab.operator_with("opens", QUICK);
        is_open(&lab, "one").await;
        successor.stop().await;
    });
}

#[test]
fn a_zero_trust_namespace_deleted_while_no_operator_runs_is_opened_by_the_next() {
    let lab = Lab::start();
    let running = lab.operator_with("before", QUICK);
    block_on(async {
        lab.shop("one").await;
        lab.shop_is_ready("one").await;
        running.stop().await;
        delete_zero_trust(&lab, "one").await;
        assert!(
            !lab.policies("one").await.is_empty(),
            "nobody is there to open it"
        );
        let after = lab.operator_with("after", QUICK);
        is_open(&lab, "one").await;

        // Deleted and written anew at once, as `kubectl replace --force` does.
        lab.zero_trust("one").await;
        lab.shop_is_ready("one").await;
        delete_zero_trust(&lab, "one").await;
        lab.zero_trust("one").await;
        lab.shop_is_ready("one").await;
        after.stop().await;
    });
}

#[test]
fn an_outage_longer_than_the_lease_is_survived_without_a_restart() {
    let mut lab = Lab::start();
    let running = lab.operator_with("survivor", QUICK);
    block_on(async {
        lab.shop("one").await;
        lab.shop_is_ready("one").await;
    });
    lab.server.stop().unwrap();
    block_on(async {
        until("the operator to stop leading", LIMIT, async || {
            if running.leads().await {
                Err(String::new())
            } else {
                Ok(())
            }
        })
        .await;
    });
    lab.server.resume().unwrap();
    block_on(async {
        let api = lab.api::<NetworkPolicy>("one");
        until("the API server to delete a policy", LIMIT, async || {
            let deleted = api
                .delete("ringfence-deny-ingress", &DeleteParams::default())
                .await;
            deleted.map(|_| ()).map_err(|error| error.to_string())
        })
        .await;
        until("the policy to be back", AGAIN, async || {
            let found = api
                .get_opt("ringfence-deny-ingress")
                .await
                .map_err(|error| error.to_string())?;
            found.map(|_| ()).ok_or("it is gone".to_owned())
        })
        .await;
        running.stop().await;
    });
}

#[test]
fn uninstalling_opens_every_namespace_and_keeps_what_users_wrote() {
    let lab = Lab::start();
    let running = lab.operator_with("first", QUICK);
    block_on(async {
        for namespace in ["one", "two"] {
            lab.shop(namespace).await;
            lab.shop_is_ready(namespace).await;
        }
        let own =
            json!({"metadata": {"name": "own"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
        lab.create::<NetworkPolicy>(Some("two"), own).await;
        running.stop().await;
        let opened = uninstall(&lab.client, Fence::open_for(LIMIT)).await.unwrap();
        assert_eq!(opened.keys().collect::<Vec<_>>(), ["one", "two"]);
        let policies: Api<NetworkPolicy> = Api::all(lab.client.clone());
        let left = policies.list(&ListParams::default()).await.unwrap();
        assert_eq!(
            left.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
            ["own"]
        );
        lab.api::<ZeroTrustNamespace>("one").get("default").await.unwrap();

        let again = lab.operator_with("again", QUICK);
        until("the policies to be back", LIMIT, async || {
            let there = lab.policies("one").await.len();
            if there >= 4 {
                Ok(())
            } else {
                Err(format!("{there}"))
            }
        })
        .await;
        again.stop().await;
    });
}

#[test]
fn deleting_the_definitions_takes_everything_and_hangs_on_nothing() {
    let lab = Lab::start();
    let running = lab.operator_with("leaving", QUICK);
    block_on(async {
        lab.shop("one").await;
        lab.shop_is_ready("one").await;
        let definitions: Api<CustomResourceDefinition> = Api::all(lab.client.clone());
        let names = [
            "externalaccesses.ringfence.dev",
            "serviceaccesses.ringfence.dev",
            "zerotrustnamespaces.ringfence.dev",
        ];
        for name in names {
            definitions.delete(name, &DeleteParams::default()).await.unwrap();
        }
        until("the definitions to go", LIMIT, async || {
            let left = definitions.list(&ListParams::default()).await.unwrap().items;
            let left: Vec<_> = left
                .iter()
                .map(ResourceExt::name_any)
                .filter(|name| names.contains(&name.as_str()))
                .collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        })
        .await;
        // The operator opens what it still can. The rest is the garbage collector's, which takes what has no owner left.
        let gone =
            |kind: &str| ["ZeroTrustNamespace", "ServiceAccess", "CustomResourceDefinition"].contains(&kind);
        for policy in lab.policies("one").await {
            assert!(
                policy.owner_references().iter().all(|owner| gone(&owner.kind)),
                "{policy:?}"
            );
            assert!(
                !policy.owner_references().is_empty() && policy.finalizers().is_empty(),
                "{policy:?}"
            );
        }
        running.stop().await;
    });
}
