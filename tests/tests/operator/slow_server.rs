//! An API server that refuses for a while, and watches that are behind.

use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use ringfence_crd::ServiceAccess;
use ringfence_operator::leader::Timing;
use serde_json::{Value, json};

use crate::between::{Between, Throttle};
use crate::identity::{Identity, OPERATOR, ask};
use crate::lab::{LIMIT, Lab, apply, block_on, until};
use crate::running::Running;

/// How long something is refused or kept back: several times what the operator would take to react.
const WHILE: Duration = Duration::from_secs(6);

/// An operator behind something.
fn operator(lab: &Lab, between: &Between) -> Running {
    Lab::operator_of(
        between.client(lab),
        "slow",
        Timing::default(),
        "ringfence-operator",
    )
}

fn clients(app: &str) -> Value {
    json!({"spec": {"clients": [{"podSelector": {"matchLabels": {"app": app}}}]}})
}

/// Waits until the pods with this label, and no others, may call `api`, by both ends' policies.
async fn only_client(lab: &Lab, namespace: &str, app: &str) {
    until(
        &format!("{app} to be the client in {namespace}"),
        LIMIT,
        async || {
            let policies = lab.policies(namespace).await;
            let texts: Vec<String> = policies
                .iter()
                .map(|policy| json!(policy))
                .filter(|policy| policy["metadata"]["name"].as_str().unwrap().contains("-access-"))
                .map(|policy| policy["spec"].to_string())
                .collect();
            let fits = texts.len() == 2 && texts.iter().all(|text| text.contains(&format!("\"{app}\"")));
            fits.then_some(()).ok_or_else(|| format!("{texts:?}"))
        },
    )
    .await;
}

/// How many writes of policies the API server has seen, accepted or not.
async fn policy_writes(running: &Running, accepted: bool) -> u64 {
    let lines = running.writes().await.into_iter();
    let count = |line: String| line.rsplit(' ').next()?.parse::<u64>().ok();
    lines
        .filter(|line| line.contains("networkpolicies") && line.contains("code=\"2") == accepted)
        .filter_map(count)
        .sum()
}

#[test]
fn an_operator_that_is_refused_everything_waits_and_then_goes_on() {
    let lab = Lab::start();
    let between = Between::new();
    let running = operator(&lab, &between);
    block_on(async {
        lab.shop("calm").await;
        lab.shop_is_ready("calm").await;
        let before = policy_writes(&running, true).await;
        between.throttle(Throttle::All);
        // Everything there is to do when nothing can be done.
        lab.patch::<ServiceAccess>("calm", "api", clients("second")).await;
        lab.shop("late").await;
        tokio::time::sleep(WHILE).await;
        let refused = between.refused();
        // Three objects in 6 s, each after 0.2, 0.4, 0.8, … s, and the Lease every 2 s: some 20. A loop would make thousands.
        assert!(
            (4..=60).contains(&refused),
            "{refused} requests were refused in {WHILE:?}"
        );
        assert_eq!(policy_writes(&running, true).await, before);

        between.throttle(Throttle::Nothing);
        only_client(&lab, "calm", "second").await;
        lab.shop_is_ready("calm").await;
        lab.shop_is_ready("late").await;
        running.stop().await;
    });
}

/// The API server serves one request at a time of the operator's ServiceAccount, and refuses what comes meanwhile.
async fn one_seat(lab: &Lab) {
    let flow = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let version = "flowcontrol.apiserver.k8s.io/v1";
    let limited = json!({"nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"}});
    let level = json!({"apiVersion": version, "kind": "PriorityLevelConfiguration", "metadata": {"name": "narrow"},
        "spec": {"type": "Limited", "limited": limited}});
    let everything = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]});
    let user = json!({"kind": "User", "user": {"name": OPERATOR}});
    let schema = json!({"apiVersion": version, "kind": "FlowSchema", "metadata": {"name": "narrow"}, "spec": {
        "matchingPrecedence": 10, "priorityLevelConfiguration": {"name": "narrow"},
        "rules": [{"subjects": [user], "resourceRules": [everything]}]}});
    for (kind, object) in [("prioritylevelconfigurations", level), ("flowschemas", schema)] {
        ask(&lab.client, "POST", &format!("{flow}/{kind}"), &object)
            .await
            .unwrap();
    }
}

#[test]
fn an_operator_with_one_seat_at_the_api_server_gets_everything_done() {
    let lab = Lab::start();
    apply(&lab.server, "config/rbac/operator");
    block_on(one_seat(&lab));
    let config = Identity::plain(OPERATOR).config(&lab);
    let running = Lab::operator_through(config, "narrow", Timing::default(), "ringfence-operator");
    block_on(async {
        let namespaces = ["one", "two", "three", "four", "five"];
        for namespace in namespaces {
            lab.shop(namespace).await;
        }
        for namespace in namespaces {
            lab.shop_is_ready(namespace).await;
        }
        let metrics = running.metrics().await;
        let refused = metrics.iter().filter(|line| line.contains("code=\"429\""));
        let refused: u64 = refused
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum();
        assert!((1..=200).contains(&refused), "{refused} requests were refused");
        running.stop().await;
    });
}

#[test]
fn a_change_of_which_every_second_write_is_refused_comes_to_its_end() {
    let lab = Lab::start();
    let between = Between::new();
    between.throttle(Throttle::EverySecondPolicy);
    let running = operator(&lab, &between);
    block_on(async {
        lab.shop("hard").await;
        let names = lab.shop_is_ready("hard").await;
        assert!(between.refused() >= 4, "{}", between.refused());
        assert!(!names.iter().any(|name| name.contains("bridge")), "{names:?}");
        between.throttle(Throttle::Nothing);
        lab.shop("easy").await;
        assert_eq!(lab.shop_is_ready("easy").await.len(), names.len());
        running.stop().await;
    });
}

#[test]
fn what_was_written_is_not_written_again_while_the_watch_is_behind() {
    let lab = Lab::start();
    let between = Between::new();
    let running = operator(&lab, &between);
    block_on(async {
        lab.shop("shop").await;
        lab.shop_is_ready("shop").await;
        let mut taken = Vec::new();
        for (behind, apps) in [(false, ["second", "third"]), (true, ["fourth", "fifth"])] {
            between.keep_policies_back(behind);
            let before = policy_writes(&running, true).await;
            for app in apps {
                lab.patch::<ServiceAccess>("shop", "api", clients(app)).await;
                only_client(&lab, "shop", app).await;
            }
            tokio::time::sleep(WHILE).await;
            taken.push(policy_writes(&running, true).await - before);
        }
        assert!(
            taken[0] > 0 && taken[0] == taken[1],
            "writes in time and behind: {taken:?}"
        );

        // What the watch tells now is old, and no reason to write.
        let before = policy_writes(&running, true).await;
        between.keep_policies_back(false);
        lab.shop_is_ready("shop").await;
        tokio::time::sleep(WHILE).await;
        assert_eq!(policy_writes(&running, true).await, before);
        only_client(&lab, "shop", "fifth").await;
        // Those that a watch that is behind leads to are refused, and few.
        let refused = policy_writes(&running, false).await;
        assert!(refused <= 10, "{refused} writes were refused");
        running.stop().await;
    });
}

#[test]
fn an_edit_that_the_watch_does_not_tell_of_is_overwritten_with_what_is_right() {
    let lab = Lab::start();
    let between = Between::new();
    let running = operator(&lab, &between);
    block_on(async {
        lab.shop("shop").await;
        let names = lab.shop_is_ready("shop").await;
        between.keep_policies_back(true);
        let grant = names.iter().find(|name| name.contains("access-ingress")).unwrap();
        let opened = json!({"spec": {"ingress": [{}]}});
        lab.patch::<NetworkPolicy>("shop", grant, opened.clone()).await;
        // This very policy is to be written anew, at a version that is gone: the refusal says so.
        let before = policy_writes(&running, false).await;
        lab.patch::<ServiceAccess>("shop", "api", clients("second")).await;
        only_client(&lab, "shop", "second").await;
        let refused = policy_writes(&running, false).await - before;
        assert!((1..=3).contains(&refused), "{refused} writes were refused");
        // One that nothing leads to looks at is repaired when the watch tells.
        lab.patch::<NetworkPolicy>("shop", "ringfence-deny-ingress", opened)
            .await;
        between.keep_policies_back(false);
        until("the denial to deny again", LIMIT, async || {
            let spec = json!(lab.policy("shop", "ringfence-deny-ingress").await.spec);
            spec["ingress"]
                .is_null()
                .then_some(())
                .ok_or_else(|| spec.to_string())
        })
        .await;
        only_client(&lab, "shop", "second").await;
        running.stop().await;
    });
}
