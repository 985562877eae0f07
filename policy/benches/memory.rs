//! How much memory the engine takes: what the process has resident, as Linux counts it, before and after.

#![allow(missing_docs)]

#[allow(dead_code, reason = "shared with the other benchmark")]
mod big;

use std::hint::black_box;

use big::{NODE, world};
use ringfence_policy::{Resolver, resolve};

/// What the process has resident, in MiB; `None` where there is no `/proc`.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / 1024.0)
}

fn main() {
    let Some(start) = resident() else {
        println!("memory: /proc/self/status is not there, nothing was measured");
        return;
    };
    let since = |before: f64| resident().unwrap_or(before) - before;
    let world = world(10_000, 100);
    println!(
        "a world of 10000 pods, 100 namespaces, 1000 policies: {:.1} MiB",
        since(start)
    );
    let before = start + since(start);
    let policies = resolve(&world, NODE);
    println!("what one node resolves of it: {:.1} MiB more", since(before));
    let before = start + since(start);
    let resolver = Resolver::from_world(NODE, &world);
    println!(
        "an incremental resolver with its own copy: {:.1} MiB more",
        since(before)
    );
    println!("all together: {:.1} MiB", since(start));
    drop(world);
    drop(policies);
    black_box(&resolver);
}
