//! Turning Enforce on while the shop is busy.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use ringfence_tests::kube_objects::{pods_of, service_address};
use ringfence_tests::probe;
use ringfence_tests::shop;

use crate::lab::{Lab, TIMEOUT};
use crate::three_tier::paths_become;

/// The paths of the shop that stay allowed: client's namespace and label, and what it connects to.
pub(crate) fn allowed_paths(lab: &Lab) -> Result<Vec<(std::path::PathBuf, SocketAddr)>> {
    let mut paths = Vec::new();
    let api = SocketAddr::new(service_address(&lab.cluster, "production", "api")?, 80);
    let db = SocketAddr::new(service_address(&lab.cluster, "production", "db")?, 5432);
    for (client, to) in [("web", api), ("api", db)] {
        for (_, address) in pods_of(&lab.cluster, "production", &format!("app={client}"))? {
            paths.push((lab.cluster.pod_netns(address)?, to));
        }
    }
    let apis = pods_of(&lab.cluster, "production", "app=api")?;
    for (_, address) in pods_of(&lab.cluster, "monitoring", "app=prometheus")? {
        for (_, api) in &apis {
            paths.push((lab.cluster.pod_netns(address)?, SocketAddr::new(*api, 9090)));
        }
    }
    Ok(paths)
}

/// Connects over each allowed path again and again until told to stop. Gives the attempts and what failed.
pub(crate) fn keep_connecting(
    netns: &std::path::Path,
    to: SocketAddr,
    stop: &AtomicBool,
) -> Result<(usize, Vec<String>)> {
    let (mut attempts, mut failures) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        attempts += 1;
        let outcome = probe::tcp_connect(netns, to, TIMEOUT)?;
        if !outcome.is_open() {
            failures.push(format!("attempt {attempts} to {to}: {outcome:?}"));
        }
        // A pace, not a wait: some hundred connections a second in all.
        thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok((attempts, failures))
}

pub(crate) fn turning_enforce_on_loses_nothing(lab: &Lab) -> Result<()> {
    lab.open_shop()?;
    let paths = allowed_paths(lab)?;
    let stop = AtomicBool::new(false);
    let (changed, results) = thread::scope(|scope| {
        let stop = &stop;
        let workers: Vec<_> = paths
            .iter()
            .map(|(netns, to)| scope.spawn(move || keep_connecting(netns, *to, stop)))
            .collect();
        // On and off: both directions of the change must carry what both states allow.
        let changed = (0..3).try_for_each(|_| {
            lab.close_shop()?;
            paths_become(lab, "the shop is closed", shop::after)?;
            lab.open_shop()
        });
        stop.store(true, Ordering::Relaxed);
        let results: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        (changed, results)
    });
    changed?;
    let mut attempts = 0;
    for result in results {
        let (tried, failures) = result.map_err(|_| anyhow::anyhow!("a prober panicked"))??;
        ensure!(
            failures.is_empty(),
            "lost {} of {tried} allowed connections:\n{}",
            failures.len(),
            failures.join("\n")
        );
        attempts += tried;
    }
    ensure!(
        attempts > 100,
        "only {attempts} connections were tried: the case shows nothing"
    );
    Ok(())
}
