//! How long the engine takes: one world of the size it is made for, and the curve as a cluster grows.

#![allow(missing_docs)]

mod big;

use std::hint::black_box;
use std::time::Duration;

use big::{LIKE_OTHERS, NODE, SAME_NODE, address, alone, pod, world};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use ringfence_policy::{
    Event, Flow, IndexedWorld, Namespace, ObjectKey, Pod, Policy, PortMatch, PortSpec, Protocol, Resolver,
    World, evaluate, resolve,
};

/// The world of the targets: 10,000 pods, 100 namespaces, 1,000 policies.
const PODS: usize = 10_000;
const NAMESPACES: usize = 100;

/// Flows that are denied, from all over the world to all over it.
fn denied(world: &World, pods: usize) -> Vec<Flow> {
    let flows = (0..2_000).map(|number| Flow {
        source: address(number * 37 % pods),
        destination: address(number * 101 % pods),
        protocol: Protocol::Tcp,
        port: 8080,
    });
    let indexed = IndexedWorld::new(world);
    flows.filter(|flow| !indexed.evaluate(flow).allowed()).collect()
}

fn whole(criterion: &mut Criterion) {
    let world = world(PODS, NAMESPACES);
    let mut group = criterion.benchmark_group("whole world of 10000 pods");
    group.bench_function("resolve one node", |b| {
        b.iter(|| resolve(black_box(&world), NODE));
    });
    group.bench_function("start an incremental resolver", |b| {
        b.iter_batched(
            || world.clone(),
            |world| Resolver::from_world(NODE, &world),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("index", |b| b.iter(|| IndexedWorld::new(black_box(&world))));
    group.finish();
}

fn questions(criterion: &mut Criterion) {
    let world = world(PODS, NAMESPACES);
    let flows = denied(&world, PODS);
    let indexed = IndexedWorld::new(&world);
    let mut group = criterion.benchmark_group("one denied flow of 10000 pods");
    let mut each = flows.iter().cycle();
    group.bench_function("evaluate, naive", |b| {
        b.iter(|| evaluate(&world, each.next().expect("endless")));
    });
    group.bench_function("evaluate, indexed", |b| {
        b.iter(|| indexed.evaluate(each.next().expect("endless")));
    });
    group.bench_function("explain, indexed", |b| {
        b.iter(|| indexed.explain(each.next().expect("endless")));
    });
    group.finish();
}

/// The same pod again and again with another label, so that every event changes something.
fn relabelled(pod: &Pod) -> impl FnMut() -> Event + use<> {
    let mut pod = pod.clone();
    let mut app = 0;
    move || {
        app = (app + 1) % 10;
        pod.labels.insert("app".to_owned(), format!("app-{app}"));
        Event::Pod(pod.clone())
    }
}

/// The same pod gone and back.
fn gone_and_back(pod: &Pod) -> impl FnMut() -> Event + use<> {
    let pod = pod.clone();
    let mut there = true;
    move || {
        there = !there;
        if there {
            Event::Pod(pod.clone())
        } else {
            Event::PodGone(pod.key.clone())
        }
    }
}

/// A policy whose first rule's port becomes another and another.
fn rewritten(policy: &Policy) -> impl FnMut() -> Event + use<> {
    let mut policy = policy.clone();
    let mut port = 0;
    move || {
        port = port % 1_000 + 1;
        let rule = policy.ingress.iter_mut().flatten().next();
        rule.expect("a rule").ports = Some(vec![PortMatch {
            protocol: Protocol::Tcp,
            port: Some(PortSpec::Range(port, port)),
        }]);
        Event::Policy(policy.clone())
    }
}

/// A namespace that moves to a team that no policy names, and back.
fn moved(namespace: &Namespace) -> impl FnMut() -> Event + use<> {
    let mut namespace = namespace.clone();
    let mut elsewhere = false;
    move || {
        elsewhere = !elsewhere;
        let team = if elsewhere { "none" } else { "team-0" };
        namespace.labels.insert("team".to_owned(), team.to_owned());
        Event::Namespace(namespace.clone())
    }
}

/// One event in worlds of 1,000 to 50,000 pods. A namespace has 100 pods in all of them and the node the same 100: what
/// grows is the number of pods that have nothing to do with the event.
fn curve(criterion: &mut Criterion) {
    for pods in [1_000, 10_000, 50_000] {
        let namespaces = pods / 100;
        let world = world(pods, namespaces);
        let mut resolver = Resolver::from_world(SAME_NODE, &world);
        let local = pod(LIKE_OTHERS, namespaces, pods);
        let alone = pod(alone(namespaces), namespaces, pods);
        // The next of the namespace is on another node, and a peer of the same policies.
        let peer = pod(LIKE_OTHERS + namespaces, namespaces, pods);
        assert_eq!(resolver.compiled().pods.len(), 100);
        assert!([&local, &alone].map(|pod| pod.node.as_deref()) == [Some(SAME_NODE); 2]);
        assert!(peer.node != local.node && peer.key.namespace == local.key.namespace);
        let mut group = criterion.benchmark_group("one event");
        let mut bench = |name: &str, next: &mut dyn FnMut() -> Event| {
            group.bench_function(BenchmarkId::new(name, pods), |b| {
                b.iter_batched(&mut *next, |event| resolver.apply(event), BatchSize::PerIteration);
            });
        };
        bench("a peer elsewhere changes its labels", &mut relabelled(&peer));
        bench("a peer elsewhere goes and comes", &mut gone_and_back(&peer));
        bench("a pod of the node changes its labels", &mut relabelled(&local));
        bench("a pod of the node goes and comes", &mut gone_and_back(&local));
        bench(
            "the only pod of its kind goes and comes",
            &mut gone_and_back(&alone),
        );
        let policy = &world.policies[&ObjectKey::new("ns-0", "policy-0")];
        bench(
            "a policy of the node's pods changes a port",
            &mut rewritten(policy),
        );
        bench(
            "a namespace of 100 peers changes its labels",
            &mut moved(&world.namespaces["ns-0"]),
        );
        group.finish();
    }
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = settings(); targets = whole, questions, curve);
criterion_main!(benches);
