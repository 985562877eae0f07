//! What an enforcer reports of its node arrives at a real API server, and only when there is something new.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use ringfence_crd::{AppliedNamespace, NodeEnforcement, NodeEnforcementStatus};
use ringfence_enforcer::metrics::Counters;
use ringfence_enforcer::report::writer::Writer;
use ringfence_telemetry::api_requests::ApiRequests;
use ringfence_telemetry::client::{Limits, client};
use ringfence_tests::source;
use ringfence_tests::testbed::ApiServer;

const NODE: &str = "worker-1";

/// Far above what anything takes: a retry after a failure comes after half a minute.
const LIMIT: Duration = Duration::from_secs(120);

async fn until<T>(what: &str, mut state: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = state().await {
            return found;
        }
        assert!(started.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn connect(server: &ApiServer) -> Client {
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    client(config, Limits::default(), &ApiRequests::default()).unwrap()
}

fn install_kinds(server: &ApiServer) {
    let folder = source::root().join("config/crd");
    let applied = server.kubectl(["apply", "-k"]).arg(folder).output().unwrap();
    let said = String::from_utf8_lossy(&applied.stderr).into_owned();
    assert!(applied.status.success(), "{said}");
}

/// What a node with this many pods tells.
fn status(node: &Node, pods: i32) -> NodeEnforcementStatus {
    let namespace = AppliedNamespace {
        name: "shop".to_owned(),
        digest: "abc".to_owned(),
        policies: 2,
        pods,
        audit: None,
    };
    NodeEnforcementStatus {
        node_uid: node.uid().unwrap(),
        version: "1.0.0".to_owned(),
        backend: "iptables-nft".to_owned(),
        families: vec!["IPv4".to_owned(), "IPv6".to_owned()],
        pods,
        namespaces: vec![namespace],
        ..NodeEnforcementStatus::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_waits_for_its_kind_goes_with_its_node_and_is_written_only_when_it_changed() {
    let server = ApiServer::start().unwrap();
    let client = connect(&server).await;
    let nodes = Api::<Node>::all(client.clone());
    let mut node = Node::default();
    node.metadata.name = Some(NODE.to_owned());
    let node = nodes.create(&PostParams::default(), &node).await.unwrap();

    // The kind is not there yet; that disturbs nobody, and is counted.
    let counters = Counters::default();
    let writer = Writer::start(&client, NODE, Some("default"), &counters);
    let first = status(&node, 1);
    writer.tell(first.clone());
    until("a failed write", async || {
        (counters.errors("ReportFailed") > 0).then_some(())
    })
    .await;
    install_kinds(&server);

    let reports = Api::<NodeEnforcement>::all(client.clone());
    let read = async || reports.get_opt(NODE).await.ok().flatten();
    let told = async |wanted: &NodeEnforcementStatus| {
        let found = read().await?;
        (found.status.as_ref() == Some(wanted)).then_some(found)
    };
    let written = until("the first report", async || told(&first).await).await;
    let owners = written.owner_references();
    assert_eq!((owners.len(), owners[0].kind.as_str()), (1, "Node"));
    assert_eq!(owners[0].uid, node.uid().unwrap());

    // The same again is no write; what is told later comes after it would have been written.
    writer.tell(first.clone());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let unchanged = read().await.unwrap();
    assert_eq!(unchanged.resource_version(), written.resource_version());
    let second = status(&node, 2);
    writer.tell(second.clone());
    let changed = until("the second report", async || told(&second).await).await;
    assert_eq!(changed.owner_references(), owners);

    // Whoever deletes it gets it back: at once with the next report, and with nothing new to tell, a little later.
    reports.delete(NODE, &DeleteParams::default()).await.unwrap();
    let second = status(&node, 4);
    writer.tell(second.clone());
    until("the report that was deleted", async || told(&second).await).await;
    reports.delete(NODE, &DeleteParams::default()).await.unwrap();
    until("the same report again", async || told(&second).await).await;

    // The node comes back as another.
    writer.be_silent();
    nodes.delete(NODE, &DeleteParams::default()).await.unwrap();
    let mut node = Node::default();
    node.metadata.name = Some(NODE.to_owned());
    let node = nodes.create(&PostParams::default(), &node).await.unwrap();
    let third = status(&node, 3);
    writer.tell(third.clone());
    let renewed = until("the report of the new node", async || told(&third).await).await;
    assert_eq!(renewed.owner_references().len(), 1);
    assert_eq!(renewed.owner_references()[0].uid, node.uid().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_is_renewed_while_the_agent_lives() {
    let server = ApiServer::start().unwrap();
    let client = connect(&server).await;
    install_kinds(&server);
    let mut node = Node::default();
    node.metadata.name = Some(NODE.to_owned());
    let nodes = Api::<Node>::all(client.clone());
    let node = nodes.create(&PostParams::default(), &node).await.unwrap();
    let writer = Writer::start(&client, NODE, Some("default"), &Counters::default());
    writer.tell(status(&node, 1));
    let leases = Api::<Lease>::namespaced(client, "default");
    let renewed = async || {
        writer.pulse();
        let lease = leases.get_opt("ringfence-enforcer-worker-1").await.ok()??;
        let spec = lease.spec?;
        assert_eq!(spec.holder_identity.as_deref(), Some(NODE));
        assert_eq!(spec.lease_duration_seconds, Some(40));
        assert_eq!(lease.metadata.owner_references?[0].uid, node.uid().unwrap());
        spec.renew_time
    };
    let first = until("the Lease", renewed).await;
    until("its renewal", async || {
        renewed().await.filter(|time| time.0 > first.0)
    })
    .await;
}
