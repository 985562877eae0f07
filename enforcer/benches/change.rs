//! Where the processor time of a change goes: `cargo bench -p ringfence-enforcer --bench change`.
//!
//! 10,000 pods and 1,000 policies, as the API server tells of them. A label makes a pod a peer of a local one, or no peer
//! any more; and a label changes which policies select the local pod. Needs root; the rules are those of a network
//! namespace that ends with the benchmark.

#![allow(missing_docs)]
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use ringfence_enforcer::cluster::{Cluster, Kind, Object, Update};
use ringfence_enforcer::conntrack::Judge;
use ringfence_enforcer::engine::Engine;
use ringfence_enforcer::kernel::{LocalKernel, Tools, Variant};
use ringfence_enforcer::metrics::Writes;
use ringfence_enforcer::options::Options;
use ringfence_enforcer::plan::Planner;
use ringfence_enforcer::ruleset::Family;
use ringfence_policy::{
    Namespace, ObjectKey, Operator, Peer, Pod, Policy, PortMatch, PortSpec, Protocol, Requirement, Rule,
    Selector,
};
use serde_json::{Value, json};

const NODE: &str = "here";
const PODS: usize = 10_000;
const NAMESPACES: usize = 100;
const POLICIES: usize = 1_000;
const CHANGES: u32 = 100;

const PARTS: [&str; 6] = ["decode", "resolve", "plan", "write", "its processes", "judge"];

/// A pod as the API server tells of it.
fn pod(number: usize, access: bool, local: bool) -> Value {
    let name = format!("pod-{number}");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": format!("ns-{}", number % NAMESPACES), "uid": name,
            "labels": {"app": format!("app-{}", number / NAMESPACES % 10), "access": if access { "yes" } else { "no" }},
            "managedFields": [{"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}, "f:access": {}}}}}],
        },
        "spec": {
            "nodeName": if local { NODE } else { "elsewhere" },
            "containers": [{"name": "main", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.200.{}.{}", number / 250, number % 250 + 1)}]},
    })
}

fn labelled(key: &str, value: &str) -> Selector {
    Selector::new(vec![Requirement {
        key: key.to_owned(),
        operator: Operator::In([value.to_owned()].into()),
    }])
}

fn policy(number: usize) -> Policy {
    let app = number / NAMESPACES % 10;
    let rule = |peers| Rule {
        peers: Some(peers),
        ports: Some(vec![PortMatch {
            protocol: Protocol::Tcp,
            port: Some(PortSpec::Named("http".to_owned())),
        }]),
    };
    let peer = |namespaces, app: usize| Peer::Pods {
        namespaces,
        pods: Some(labelled("app", &format!("app-{app}"))),
    };
    let everywhere = Some(Selector::default());
    // One of them lets a fifth of all pods in.
    let access = Peer::Pods {
        namespaces: everywhere.clone(),
        pods: Some(labelled("access", "yes")),
    };
    let first = if number == 0 {
        access
    } else {
        peer(None, (app + 1) % 10)
    };
    Policy {
        key: ObjectKey::new(format!("ns-{}", number % NAMESPACES), format!("policy-{number}")),
        uid: number.to_string(),
        pod_selector: labelled("app", &format!("app-{app}")),
        ingress: Some(vec![rule(vec![first, peer(everywhere, 0)])]),
        egress: Some(vec![rule(vec![peer(None, (app + 3) % 10)])]),
    }
}

/// The enforcer without its watches.
struct Enforcer {
    cluster: Cluster,
    planner: Planner,
    engine: Engine<LocalKernel>,
    spent: [Duration; PARTS.len()],
}

/// The processor time that this process has used, or those that it started.
fn used(who: UsageWho) -> Duration {
    let usage = getrusage(who).expect("usage");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.try_into().expect("a time"))
}

impl Enforcer {
    fn part<T>(&mut self, part: usize, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = used(UsageWho::RUSAGE_SELF);
        let result = work(self);
        self.spent[part] += used(UsageWho::RUSAGE_SELF) - before;
        result
    }

    fn change(&mut self, text: &str) {
        let pod = self.part(0, |_| {
            let pod: core::Pod = serde_json::from_str(text).expect("a pod");
            Pod::from_api(&pod)
        });
        self.part(1, |it| it.cluster.apply(Update::Upsert(Object::Pod(pod))));
        self.sync();
    }

    fn sync(&mut self) {
        self.part(2, |it| {
            let (compiled, stale) = it.cluster.compiled();
            it.planner.update(compiled, &[], &stale);
        });
        let children = used(UsageWho::RUSAGE_CHILDREN);
        self.part(3, |it| {
            let touched = it.planner.take_touched();
            it.engine
                .sync_touched(it.planner.ruleset(), &touched)
                .expect("the kernel takes it");
        });
        self.spent[4] += used(UsageWho::RUSAGE_CHILDREN) - children;
        let judge = self.part(5, |it| Judge::new(it.cluster.policies(), vec![], false));
        drop(judge);
    }

    fn print(&mut self, what: &str) {
        println!("{what}:");
        let spent = std::mem::take(&mut self.spent);
        for (part, spent) in PARTS.iter().zip(spent) {
            println!("  {part:14} {:8.3} ms", (spent / CHANGES).as_secs_f64() * 1e3);
        }
        println!(
            "  {:14} {:8.3} ms",
            "together",
            (spent.iter().sum::<Duration>() / CHANGES).as_secs_f64() * 1e3
        );
    }
}

fn main() {
    let mut cluster = Cluster::new(NODE);
    let read = |value: Value| Object::Pod(Pod::from_api(&serde_json::from_value(value).expect("a pod")));
    let pods = (0..PODS).map(|number| read(pod(number, number % 5 == 0, number < 50)));
    let namespaces = (0..NAMESPACES).map(|number| {
        Object::Namespace(Namespace {
            name: format!("ns-{number}"),
            labels: [].into(),
        })
    });
    let policies = (0..POLICIES).map(|number| Object::Policy(policy(number)));
    cluster.apply_all(Update::list(Kind::Pod, pods));
    cluster.apply_all(Update::list(Kind::Namespace, namespaces));
    cluster.apply_all(Update::list(Kind::Policy, policies));
    cluster.apply_all(Update::list(Kind::Node, []));
    for variant in Variant::ALL {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace of its own");
        let tools = Tools::open(10, Writes::default()).expect("sets");
        let mut enforcer = Enforcer {
            cluster,
            planner: Planner::new(&Family::ALL, &Options::default()),
            engine: Engine::new(LocalKernel::new(tools, variant, &Family::ALL)),
            spent: Default::default(),
        };
        let (compiled, _) = enforcer.cluster.compiled();
        enforcer
            .planner
            .update(compiled, &[], &ringfence_enforcer::plan::Stale::everything());
        enforcer.sync();
        enforcer.spent = Default::default();
        println!(
            "== iptables-{variant}, {} chains",
            enforcer.planner.ruleset().families[&Family::V4].chains.len()
        );
        for change in 0..CHANGES {
            enforcer.change(&pod(9_999, change % 2 == 0, false).to_string());
        }
        enforcer.print("a peer comes or goes");
        for change in 0..CHANGES {
            // Another app: other policies.
            let mut text = pod(0, true, true);
            text["metadata"]["labels"]["app"] = json!(format!("app-{}", (change + 1) % 2));
            enforcer.change(&text.to_string());
        }
        enforcer.print("a local pod's policies change");
        cluster = enforcer.cluster;
    }
}
