//! How long the engine takes: one world of the size it is made for, and the curve as a cluster grows.

#![allow(missing_docs)]

mod big;

use std::hint::black_box;
use std::time::Duration;

use big::{NODE, address, pod, world};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use ringfence_policy::{Event, Flow, IndexedWorld, Pod, Protocol, Resolver, World, evaluate, resolve};

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

/// One event in worlds of 1,000 to 50,000 pods. A namespace has 100 pods and a node 100 in all of them: what grows is the
/// number of pods that have nothing to do with the event.
fn curve(criterion: &mut Criterion) {
    for pods in [1_000, 10_000, 50_000] {
        let namespaces = pods / 100;
        let world = world(pods, namespaces);
        let mut resolver = Resolver::from_world(NODE, &world);
        // Number 0 is on the node. The next of its namespace is on another node, and a peer of number 0's policies.
        let local = pod(0, namespaces, pods);
        let peer = pod(namespaces, namespaces, pods);
        assert!(local.node.as_deref() == Some(NODE) && peer.node != local.node);
        assert_eq!(local.key.namespace, peer.key.namespace);
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
