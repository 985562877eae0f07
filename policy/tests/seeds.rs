//! The fuzzers' entry points, on their seeds: what a fuzzer would find there, an ordinary test finds.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use ringfence_policy::testing::fuzz;

fn run(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut seeds = 0;
    for seed in std::fs::read_dir(folder).unwrap() {
        let path = seed.unwrap().path();
        println!("{}", path.display());
        check(&std::fs::read(path).unwrap());
        seeds += 1;
    }
    assert!(seeds >= 10, "only {seeds} seeds of {target}");
}

#[test]
fn policies_from_json() {
    run("policy_json", fuzz::policy_json);
}

#[test]
fn worlds_from_bytes() {
    run("world", fuzz::world);
}
