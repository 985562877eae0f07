//! The API server's own counts of requests.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kube::Client;

/// Verbs that change something.
const WRITES: [&str; 6] = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];

/// Requests by verb, resource and answer, since the API server started. Leases are left out: they are renewed for ever.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(BTreeMap<(String, String, String), u64>);

impl Counts {
    pub(crate) async fn read(client: &Client) -> Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = client
            .request_text(request)
            .await
            .context("read the API server's metrics")?;
        let mut counts = Self::default();
        for line in text.lines() {
            let Some((labels, count)) = line
                .strip_prefix("apiserver_request_total{")
                .and_then(|rest| rest.rsplit_once("} "))
            else {
                continue;
            };
            let label = |name: &str| {
                let begin = format!("{name}=\"");
                let mut all = labels.split(',');
                all.find_map(|label| label.strip_prefix(&begin)?.strip_suffix('"'))
                    .unwrap_or_default()
                    .to_owned()
            };
            if label("resource") == "leases" {
                continue;
            }
            let resource = match label("subresource") {
                sub if sub.is_empty() => label("resource"),
                sub => format!("{}/{sub}", label("resource")),
            };
            let count = count.parse::<f64>().context("a count of requests")?;
            // The API server counts in whole numbers and prints them as floats.
            let count = format!("{count:.0}").parse::<u64>()?;
            *counts
                .0
                .entry((label("verb"), resource, label("code")))
                .or_default() += count;
        }
        Ok(counts)
    }

    /// What was added since.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let added = self.0.iter().map(|(key, count)| {
            let earlier = before.0.get(key).copied().unwrap_or_default();
            (key.clone(), count - earlier)
        });
        Self(added.filter(|(_, count)| *count > 0).collect())
    }

    /// How many of them change something.
    pub(crate) fn writes(&self) -> u64 {
        let writes = self
            .0
            .iter()
            .filter(|((verb, ..), _)| WRITES.contains(&verb.as_str()));
        writes.map(|(_, count)| count).sum()
    }

    pub(crate) fn print(&self) {
        println!("requests, as the API server counts them:");
        for ((verb, resource, code), count) in &self.0 {
            let read = ["LIST", "WATCH"].contains(&verb.as_str());
            if !read && !resource.is_empty() {
                println!("  {verb:<7} {resource:<36} {code:<4} {count:>7}");
            }
        }
    }
}
