//! How long the engine takes in one world of the size it is made for.

#![allow(missing_docs)]

#[allow(dead_code, reason = "shared with the other benchmarks")]
mod big;

use std::hint::black_box;
use std::time::Duration;

use big::{NODE, address, world};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ringfence_policy::{Flow, IndexedWorld, Protocol, Resolver, World, evaluate, resolve};

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

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = settings(); targets = whole, questions);
criterion_main!(benches);
