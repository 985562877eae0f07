//! The whole program without an API server: updates in, kernel out.

use std::sync::Mutex;
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use ringfence_enforcer::agent::{Agent, Settings};
use ringfence_enforcer::cluster::{Kind, Object, Update};
use ringfence_enforcer::cni::service::Service;
use ringfence_enforcer::conntrack::socket::Conntrack;
use ringfence_enforcer::droplog::Sighting;
use ringfence_enforcer::kernel::{News, Variant};
use ringfence_enforcer::metrics::Counters;
use ringfence_enforcer::names;
use ringfence_enforcer::options::Options;
use ringfence_enforcer::ruleset::Family;
use ringfence_policy::{Namespace as PolicyNamespace, Policy, Protocol, World};
use ringfence_telemetry::health::{Check, Health};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::net::Namespace;
use super::world::{NODE, peers, policy, ports, rule, ruleset, updates, world};

/// Longer than anything here may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long after the last revoked connection packets are compared with the mark.
const GUARD_FOR: Duration = Duration::from_millis(200);
/// Where the agent itself is said to run.
const HOME: &str = "ringfence-system";

pub(crate) struct Running {
    updates: UnboundedSender<Update>,
    health: Health,
    ready: Check,
    pub(crate) counters: Counters,
    ended: Mutex<Receiver<Sighting>>,
    shutdown: CancellationToken,
    task: JoinHandle<ringfence_enforcer::Result<()>>,
}

pub(crate) fn start(namespace: &Namespace, variant: Variant) -> Running {
    start_with(namespace, variant, None)
}

/// As [`start`], with the CNI plugin.
pub(crate) fn start_with(namespace: &Namespace, variant: Variant, plugin: Option<Service>) -> Running {
    start_as(namespace, variant, plugin, Options::default())
}

/// As [`start`]: soon nothing is compared with the mark of revoked connections where there are none.
pub(crate) fn start_unguarded(namespace: &Namespace, variant: Variant) -> Running {
    let options = Options {
        guard_for: Some(GUARD_FOR),
        ..Options::default()
    };
    start_as(namespace, variant, None, options)
}

fn start_as(namespace: &Namespace, variant: Variant, plugin: Option<Service>, options: Options) -> Running {
    let counters = Counters::default();
    let (tell, ended) = channel(1_000);
    let health = Health::new();
    let ready = health.readiness("rules", "not written yet");
    let settings = Settings {
        auditor: None,
        ended: Some(tell),
        report: None,
        node: NODE.to_owned(),
        own_namespace: Some(HOME.to_owned()),
        variant,
        families: Family::ALL.to_vec(),
        options,
        tools: namespace.tools(&counters.writes),
        conntrack: Some(namespace.inside(|| Conntrack::open().expect("the kernel tracks connections"))),
        drops: None,
        news: (variant == Variant::Nft).then(|| namespace.inside(|| News::open().expect("the kernel tells"))),
        counters: counters.clone(),
        started: tokio::time::Instant::now(),
        ready: ready.clone(),
    };
    let (updates, received): (_, UnboundedReceiver<Update>) = unbounded();
    let shutdown = CancellationToken::new();
    let mut agent = Agent::new(settings);
    if let Some(plugin) = plugin {
        agent = agent.with_plugin(plugin);
    }
    let task = tokio::spawn(agent.run(received, shutdown.clone()));
    Running {
        health,
        updates,
        ready,
        counters,
        ended: Mutex::new(ended),
        shutdown,
        task,
    }
}

impl Running {
    pub(crate) fn tell(&self, updates: impl IntoIterator<Item = Update>) {
        updates
            .into_iter()
            .for_each(|update| self.updates.unbounded_send(update).expect("the agent listens"));
    }

    pub(crate) async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let poll = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, poll)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }

    pub(crate) async fn until_ready(&self) {
        self.until("ready", || self.ready.is_ok()).await;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.is_ok()
    }

    /// What it says about its readiness.
    pub(crate) fn readiness(&self) -> String {
        format!("{:?}", self.health.ready())
    }

    /// What was told of connections that were ended, since this was last asked.
    pub(crate) fn ended(&self) -> Vec<Sighting> {
        let mut ended = self.ended.lock().expect("nobody panicked with it");
        std::iter::from_fn(|| ended.try_recv().ok()).collect()
    }

    /// What /metrics would show.
    pub(crate) fn metrics(&self) -> String {
        let mut registry = Registry::default();
        self.counters.register(&mut registry);
        let mut shown = String::new();
        encode(&mut shown, &registry).expect("metrics are text");
        shown
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(LIMIT, self.task)
            .await
            .expect("the agent ends");
        ended
            .expect("the agent does not panic")
            .expect("the agent ends well");
    }
}

fn web() -> Policy {
    let rule = rule(vec![peers(&[2])], vec![ports(Protocol::Tcp, 80, 80)]);
    policy("web", &[0], Some(vec![rule]), None)
}

fn closed() -> World {
    world(3, vec![web()])
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_before_every_list_is_complete() {
    let namespace = Namespace::new();
    namespace
        .engine(Variant::Nft)
        .0
        .sync(&ruleset(&closed()))
        .expect("the kernel takes the rules");
    let before = namespace.saved();
    let agent = start(&namespace, Variant::Nft);
    let mut told = updates(&closed());
    let last = told.pop();
    agent.tell(told);
    agent.tell([Update::Remove(Kind::Policy, web().key)]);
    agent
        .until("all but the node told", || {
            format!("{:?}", agent.health.ready()).contains("[Node]")
        })
        .await;
    // Nothing is to happen now, so there is nothing to wait for: as long as any change would have waited at most.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!agent.ready.is_ok());
    assert_eq!(agent.counters.writes.total(), 0);
    assert_eq!(namespace.saved(), before);
    agent.tell([Update::Upsert(Object::Policy(web()))].into_iter().chain(last));
    agent.until_ready().await;
    assert_eq!(
        agent.counters.writes.total(),
        0,
        "what an earlier run wrote is right already"
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_reach_the_kernel_and_stay_when_the_agent_goes() {
    let namespace = Namespace::new();
    let agent = start(&namespace, Variant::Legacy);
    agent.tell(updates(&world(3, vec![])));
    agent.until_ready().await;
    let before = agent.counters.syncs.get();
    agent.tell([Update::Upsert(Object::Policy(web()))]);
    agent
        .until("a sync", || agent.counters.syncs.get() > before)
        .await;
    assert_eq!(agent.counters.isolated_pods.get(), 1);
    agent.stop().await;
    let (mut fresh, writes) = namespace.engine(Variant::Legacy);
    fresh.sync(&ruleset(&closed())).expect("the kernel can be read");
    assert_eq!(
        writes.total(),
        0,
        "the rules stayed, and are those of the policies"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moves_to_the_other_variant_keeps_nothing_in_the_first() {
    for (from, to) in [(Variant::Legacy, Variant::Nft), (Variant::Nft, Variant::Legacy)] {
        let namespace = Namespace::new();
        namespace
            .engine(from)
            .0
            .sync(&ruleset(&closed()))
            .expect("the kernel takes the rules");
        let agent = start(&namespace, to);
        agent.tell(updates(&world(3, vec![])));
        agent.until_ready().await;
        for program in ["iptables", "ip6tables"] {
            assert!(
                !namespace
                    .run(&[&format!("{program}-{from}-save")])
                    .contains(names::PREFIX),
                "{from}"
            );
            assert!(
                namespace
                    .run(&[&format!("{program}-{to}-save")])
                    .contains(names::FORWARD),
                "{to}"
            );
        }
        assert!(
            !namespace.run(&["ipset", "list", "-name"]).contains("RINGF-4p-"),
            "sets without a use go"
        );
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstall_removes_the_rules_also_when_its_news_comes_after_the_signal() {
    for late in [false, true] {
        let namespace = Namespace::new();
        let before = namespace.saved();
        let agent = start(&namespace, Variant::Nft);
        let home = PolicyNamespace {
            name: HOME.to_owned(),
            labels: [].into(),
        };
        agent.tell(updates(&closed()));
        agent.tell([Update::Upsert(Object::Namespace(home))]);
        agent.until_ready().await;
        assert_ne!(namespace.saved(), before);
        let news = Update::Terminating(HOME.to_owned());
        if late {
            agent.shutdown.cancel();
        }
        agent.tell([news]);
        agent.stop().await;
        // The other families' and variants' tables came into being by being read; they are empty.
        assert!(!namespace.saved().contains(names::PREFIX), "late: {late}");
    }
}
