//! Nothing happens, so nothing is written.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::lab::Lab;

/// The idle times of which one must pass without a write.
const ECHOES: usize = 5;

/// Writes counted since the programs started, by what counts them.
fn writes(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let mut writes = BTreeMap::new();
    for line in lab.kubectl(&["get", "--raw", "/metrics"])?.lines() {
        if let Some((series, count)) = api_server_write(line) {
            *writes.entry(series).or_default() += count;
        }
    }
    for (program, pod, text) in lab.program_metrics()? {
        for line in text.lines() {
            let kernel = line.starts_with("ringfence_kernel_writes_total");
            let api = line.starts_with("ringfence_api_requests_total")
                && is_write(line)
                // Leases are renewed, and Events tell of packets, not of changes.
                && !line.contains("leases")
                && !line.contains("events");
            if let (true, Some((series, count))) = (kernel || api, sample(line)) {
                writes.insert(format!("{program} {pod} {series}"), count);
            }
        }
    }
    Ok(writes)
}

/// The API server's own count of writes to what our programs could write, Leases aside.
fn api_server_write(line: &str) -> Option<(String, u64)> {
    let ours = [
        "networkpolicies",
        "zerotrustnamespaces",
        "serviceaccesses",
        "nodeenforcements",
        "externalaccesses",
    ];
    let counted = line.starts_with("apiserver_request_total{")
        && is_write(line)
        && ours
            .iter()
            .any(|resource| line.contains(&format!("resource=\"{resource}\"")));
    counted
        .then(|| sample(line))
        .flatten()
        .map(|(series, count)| (format!("apiserver {series}"), count))
}

fn is_write(line: &str) -> bool {
    ["create", "update", "patch", "delete", "post", "put", "apply"]
        .iter()
        .any(|verb| line.to_lowercase().contains(&format!("verb=\"{verb}\"")))
}

fn sample(line: &str) -> Option<(String, u64)> {
    let (series, value) = line.rsplit_once(' ')?;
    Some((series.to_owned(), value.parse::<f64>().ok()? as u64))
}

pub(crate) fn nothing_is_written(lab: &Lab) -> Result<()> {
    lab.close_shop()?;
    let idle = if lab.long() {
        Duration::from_secs(600)
    } else {
        Duration::from_secs(30)
    };
    let mut before = writes(lab)?;
    ensure!(
        before
            .keys()
            .any(|series| series.contains("ringfence_kernel_writes_total")),
        "no kernel writes are counted"
    );
    ensure!(
        before
            .keys()
            .any(|series| series.contains("ringfence_api_requests_total")),
        "no API writes are counted"
    );
    // What earlier cases did has echoes, of which each comes once: a minute later packets are no longer compared with the mark
    // of revoked connections, and sums of what was dropped are reported.
    let mut written = Vec::new();
    for _ in 0..ECHOES {
        // This is the one place that waits for time to pass: that nothing happens in it is what is to be shown.
        thread::sleep(idle);
        let after = writes(lab)?;
        if after == before {
            return Ok(());
        }
        written.push(format!("before {before:#?}\nafter {after:#?}"));
        before = after;
    }
    bail!(
        "written in each of {ECHOES} times of {idle:?}:\n{}",
        written.join("\n")
    )
}
