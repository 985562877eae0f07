#![allow(clippy::unwrap_used)]

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;

use super::*;
use crate::dns::{Answer, Limits, Resolve, Unanswered};
use crate::names::{ORIGIN_NAME_LABEL, ORIGIN_NAMESPACE_LABEL};
use crate::queue::{Backoff, Done};
use crate::stores::stores;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::time::timeout;

/// Namespaces `shop` and `bank` are covered, `free` is not; `shop/api` is granted to clients.
fn triggers() -> (Triggers, Arc<Queue<Key>>) {
    let (stores, _feeds) = stores();
    for namespace in ["shop", "bank"] {
        let resource =
            json!({"metadata": {"name": "default", "namespace": namespace}, "spec": {"mode": "Enforce"}});
        stores.mirror.enter(&object::<ZeroTrustNamespace>(resource));
    }
    stores.mirror.enter(&Some(Arc::new(access(1))));
    let external = json!({"metadata": {"name": "out", "namespace": "bank", "generation": 1},
        "spec": {"podSelector": {}, "egress": [{"to": [{"dnsName": "api.example.com"}]}]}});
    stores.mirror.enter(&object::<ExternalAccess>(external));
    let queue = Arc::new(Queue::new(Backoff::default()));
    (
        Triggers::new(
            &stores,
            queue.clone(),
            vec![ObjectKey::new("kube-system", "kube-dns")],
            Arc::new(Names::new(Arc::new(Silent), Limits::default())),
        ),
        queue,
    )
}

/// A resolver that is never asked here.
struct Silent;

impl Resolve for Silent {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Answer, Unanswered>> {
        panic!("nobody follows names here, but {name} was asked for")
    }
}

fn access(generation: i64) -> ServiceAccess {
    serde_json::from_value(json!({
        "metadata": {"name": "api", "namespace": "shop", "generation": generation},
        "spec": {"targetRef": {"name": "api"}, "clients": [{"namespace": "bank"}]},
    }))
    .unwrap()
}

fn object<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> Option<Arc<K>> {
    Some(Arc::new(serde_json::from_value(value).unwrap()))
}

async fn queued(triggers: &Triggers, queue: &Queue<Key>, change: Change) -> Vec<String> {
    triggers.changed(&change);
    let mut keys = Vec::new();
    while let Ok(key) = timeout(Duration::from_secs(2), queue.next()).await {
        queue.done(&key, Done::Finished);
        keys.push(match key {
            Key::Namespace(name) => name,
            Key::Access(access) | Key::External(access) => access.to_string(),
            Key::Baseline => "the baseline".to_owned(),
        });
    }
    keys.sort();
    keys
}

#[tokio::test(start_paused = true)]
async fn a_service_matters_where_it_is_granted_and_when_it_is_the_dns() {
    let (triggers, queue) = triggers();
    let service = |namespace: &str, name: &str| {
        let value = json!({"metadata": {"name": name, "namespace": namespace}, "spec": {}});
        Change::Service(Versions {
            old: None,
            new: object(value),
        })
    };
    assert_eq!(
        queued(&triggers, &queue, service("shop", "api")).await,
        ["bank", "shop", "shop/api"]
    );
    assert_eq!(
        queued(&triggers, &queue, service("kube-system", "kube-dns")).await,
        ["bank", "bank/out", "shop", "shop/api"]
    );
    // The namespace tells of Services that nobody is let in to.
    assert_eq!(queued(&triggers, &queue, service("shop", "db")).await, ["shop"]);
    assert_eq!(queued(&triggers, &queue, service("bank", "api")).await, ["bank"]);
    assert!(queued(&triggers, &queue, service("free", "api")).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_written_concerns_nobody_but_its_object() {
    let (triggers, queue) = triggers();
    let versions = |old, new| Change::Access(Versions { old, new });
    let (one, two) = (Some(Arc::new(access(1))), Some(Arc::new(access(2))));
    assert_eq!(
        queued(&triggers, &queue, versions(one.clone(), one.clone())).await,
        ["shop/api"]
    );
    assert_eq!(
        queued(&triggers, &queue, versions(one, two)).await,
        ["bank", "shop", "shop/api"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_policy_matters_to_its_namespace_and_to_its_origin_elsewhere() {
    let (triggers, queue) = triggers();
    let policy = |namespace: &str, labels: serde_json::Value| {
        let value = json!({"metadata": {"name": "x", "namespace": namespace, "labels": labels}});
        Change::Policy(Versions {
            old: object(value),
            new: None,
        })
    };
    let labels =
        json!({ORIGIN_KIND_LABEL: "ServiceAccess", ORIGIN_NAMESPACE_LABEL: "shop", ORIGIN_NAME_LABEL: "api"});
    assert_eq!(
        queued(&triggers, &queue, policy("bank", labels.clone())).await,
        ["bank", "shop/api"]
    );
    assert_eq!(
        queued(&triggers, &queue, policy("free", labels)).await,
        ["free", "shop/api"]
    );
    assert_eq!(
        queued(&triggers, &queue, policy("shop", json!({}))).await,
        ["shop"]
    );
    assert!(
        queued(&triggers, &queue, policy("free", json!({})))
            .await
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_matters_when_what_policies_see_of_it_changes() {
    let (triggers, queue) = triggers();
    let pod = |namespace: &str, phase: &str, message: &str| {
        object::<Pod>(
            json!({"metadata": {"name": "p", "namespace": namespace}, "status": {"phase": phase, "message": message}}),
        )
    };
    let change = |old, new| Change::Pod(Versions { old, new });
    let (running, other) = (pod("shop", "Running", "a"), pod("shop", "Running", "b"));
    assert!(
        queued(&triggers, &queue, change(running.clone(), other))
            .await
            .is_empty()
    );
    let finished = pod("shop", "Succeeded", "a");
    assert_eq!(
        queued(&triggers, &queue, change(running, finished)).await,
        ["shop", "shop/api"]
    );
    assert!(
        queued(&triggers, &queue, change(None, pod("free", "Running", "a")))
            .await
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn a_namespace_matters_to_whoever_knows_it_when_its_labels_change() {
    let (triggers, queue) = triggers();
    let called = |name: &str, team: &str, other: &str| {
        object::<Namespace>(
            json!({"metadata": {"name": name, "labels": {"team": team}, "annotations": {"other": other}}}),
        )
    };
    let namespace = |team: &str, other: &str| called("bank", team, other);
    let change = |old, new| Change::Namespace(Versions { old, new });
    assert!(
        queued(
            &triggers,
            &queue,
            change(namespace("a", "1"), namespace("a", "2"))
        )
        .await
        .is_empty()
    );
    let change_of = |name| change(called(name, "a", "1"), called(name, "b", "1"));
    assert_eq!(
        queued(&triggers, &queue, change_of("bank")).await,
        ["bank", "bank/out", "shop", "shop/api"]
    );
    assert_eq!(
        queued(&triggers, &queue, change_of("shop")).await,
        ["shop", "shop/api"]
    );
    assert!(queued(&triggers, &queue, change_of("free")).await.is_empty());
}

/// The same as [`triggers`], but that `bank` derives its openings from what is there.
fn deriving() -> (Triggers, Arc<Queue<Key>>) {
    let (stores, _feeds) = stores();
    let allow = json!({
        "ingressControllers": {"from": [{"namespace": "shop"}]},
        "external": [{"service": "door"}],
        "webhooks": {},
        "monitoring": {"from": [{"namespace": "shop"}], "discover": ["Annotations", "PodMonitors"]},
        "dns": {"services": [{"namespace": "dns", "name": "main"}]},
    });
    for (namespace, allow) in [("shop", json!({})), ("bank", allow)] {
        let resource = json!({"metadata": {"name": "default", "namespace": namespace}, "spec": {"mode": "Enforce", "allow": allow}});
        stores.mirror.enter(&object::<ZeroTrustNamespace>(resource));
    }
    let selecting =
        json!({"metadata": {"name": "api", "namespace": "shop"}, "spec": {"selector": {"app": "api"}}});
    stores.mirror.enter(&object::<Service>(selecting));
    let queue = Arc::new(Queue::new(Backoff::default()));
    let names = Arc::new(Names::new(Arc::new(Silent), Limits::default()));
    (Triggers::new(&stores, queue.clone(), Vec::new(), names), queue)
}

fn appeared<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> Change
where
    Change: From<Versions<K>>,
{
    Change::from(Versions {
        old: None,
        new: object(value),
    })
}

fn plain(namespace: &str, name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": namespace, "generation": 1}, "spec": {}})
}

fn addresses_of(namespace: &str, service: &str) -> Change {
    appeared::<EndpointSlice>(json!({
        "metadata": {"name": "s", "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}],
    }))
}

fn called_in(namespace: &str) -> Change {
    appeared::<APIService>(json!({
        "metadata": {"name": "v1.x"},
        "spec": {"service": {"namespace": namespace, "name": "hook"}, "groupPriorityMinimum": 1, "versionPriority": 1},
    }))
}

fn node_at(address: &str) -> serde_json::Value {
    json!({"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
}

#[tokio::test(start_paused = true)]
async fn what_openings_are_derived_from_matters_where_they_are() {
    let (triggers, queue) = deriving();
    let (all, nobody) = (vec!["bank", "shop"], Vec::<&str>::new());
    let (bank, shop) = (vec!["bank"], vec!["shop"]);
    let set = appeared::<StatefulSet>(json!({
        "metadata": {"name": "db", "namespace": "shop"}, "spec": {"selector": {}, "template": {}},
    }));
    let unchanged = Change::from(Versions::<Node> {
        old: object(node_at("192.0.2.1")),
        new: object(node_at("192.0.2.1")),
    });
    let cases: Vec<(&str, Change, &Vec<&str>)> = vec![
        (
            "back ends of a namespace with controllers",
            appeared::<Ingress>(plain("bank", "site")),
            &all,
        ),
        (
            "and of one without",
            appeared::<Ingress>(plain("shop", "site")),
            &nobody,
        ),
        (
            "a Service that is named for DNS",
            appeared::<Service>(plain("dns", "main")),
            &bank,
        ),
        (
            "a Service that may be derived from",
            appeared::<Service>(plain("bank", "door")),
            &all,
        ),
        (
            "one of a namespace that derives nothing, which only tells of it",
            appeared::<Service>(plain("shop", "db")),
            &shop,
        ),
        (
            "the API server's addresses",
            addresses_of("default", "kubernetes"),
            &all,
        ),
        (
            "those of a Service with a selector",
            addresses_of("shop", "api"),
            &nobody,
        ),
        (
            "those of one without, or unknown",
            addresses_of("bank", "outside"),
            &all,
        ),
        ("what the API server calls there", called_in("bank"), &all),
        ("and elsewhere", called_in("shop"), &nobody),
        ("a node", appeared::<Node>(node_at("192.0.2.1")), &bank),
        ("a node's heartbeat", unchanged, &nobody),
    ];
    for (what, change, wanted) in cases {
        assert_eq!(queued(&triggers, &queue, change).await, *wanted, "{what}");
    }
    assert_eq!(queued(&triggers, &queue, set).await, ["shop"]);
}

#[tokio::test(start_paused = true)]
async fn annotations_of_pods_matter_to_scrapers_too() {
    let (triggers, queue) = deriving();
    let pod = |namespace: &str, port: &str| {
        object::<Pod>(json!({
            "metadata": {"name": "p", "namespace": namespace, "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": port}},
            "spec": {"containers": []},
        }))
    };
    let change = |namespace| {
        Change::Pod(Versions {
            old: pod(namespace, "1"),
            new: pod(namespace, "2"),
        })
    };
    assert_eq!(queued(&triggers, &queue, change("bank")).await, ["bank", "shop"]);
    assert_eq!(queued(&triggers, &queue, change("shop")).await, ["shop"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_matters_to_whoever_names_the_account_it_runs_as_or_claims() {
    let (triggers, queue) = triggers();
    let spec =
        json!({"targetRef": {"name": "api"}, "clients": [{"namespace": "free", "serviceAccount": "cart"}]});
    let access =
        json!({"metadata": {"name": "by-account", "namespace": "shop", "generation": 1}, "spec": spec});
    triggers.mirror.enter(&object::<ServiceAccess>(access));
    let pod = |account: &str, labels: serde_json::Value| {
        let value = json!({"metadata": {"name": "p", "namespace": "free", "labels": labels},
            "spec": {"containers": [], "serviceAccountName": account}});
        Change::Pod(Versions {
            old: None,
            new: object(value),
        })
    };
    let concerned = ["shop", "shop/by-account"];
    assert_eq!(queued(&triggers, &queue, pod("cart", json!({}))).await, concerned);
    let claims = json!({"ringfence.dev/service-account": "cart"});
    assert_eq!(queued(&triggers, &queue, pod("other", claims)).await, concerned);
    assert!(
        queued(&triggers, &queue, pod("other", json!({})))
            .await
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn a_name_matters_to_whoever_gives_it_and_so_does_what_is_inside_the_cluster() {
    let (triggers, queue) = triggers();
    let names = |name: &str| BTreeSet::from([name.to_owned()]);
    let concerned = ["bank", "bank/out"];
    triggers.names_changed(&names("other.example.com"));
    let unrelated = Change::from(Versions::<Node> { old: None, new: None });
    assert!(queued(&triggers, &queue, unrelated).await.is_empty());
    triggers.names_changed(&names("api.example.com"));
    let unrelated = Change::from(Versions::<Node> { old: None, new: None });
    assert_eq!(queued(&triggers, &queue, unrelated).await, concerned);
    let node = Change::from(Versions::<Node> {
        old: None,
        new: object(json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.1.0.0/24"]}})),
    });
    assert_eq!(queued(&triggers, &queue, node).await, concerned);
}
