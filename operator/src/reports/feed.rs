//! Watches what nodes report, and their enforcers' Leases.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, reflector as keep, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use ringfence_crd::NodeEnforcement;
use tokio::time::{MissedTickBehavior, interval};

use super::{Liveness, NodeReport, NodeReports, Reports};
use crate::error::Error;
use crate::metrics::OperatorMetrics;
use crate::stores::watch_failed;
use crate::triggers::Triggers;

/// How often to look who has not renewed.
const LOOK: Duration = Duration::from_secs(2);

/// Whom to tell, and of what.
pub struct Feed {
    /// Where what is known goes.
    pub reports: Reports,
    /// Who is told which namespaces it concerns.
    pub triggers: Arc<Triggers>,
    /// What is counted.
    pub metrics: OperatorMetrics,
    /// The namespace that the enforcers run in.
    pub namespace: String,
}

impl Feed {
    /// Watches until it is dropped. A cluster without enforcers, or without their kind, has no reports.
    ///
    /// # Errors
    /// Never: a watch that fails is started again.
    pub async fn run(self, client: Client) -> Result<(), Error> {
        let (nodes, nodes_writer) = reflector::store();
        let (leases, leases_writer) = reflector::store();
        let ours = watcher::Config::default().labels("app.kubernetes.io/part-of=ringfence");
        let api = Api::<NodeEnforcement>::all(client.clone());
        let reported = keep(nodes_writer, watcher(api, watcher::Config::default())).default_backoff();
        let api = Api::<Lease>::namespaced(client, &self.namespace);
        let renewed = keep(leases_writer, watcher(api, ours)).default_backoff();
        let (mut reported, mut renewed) = (pin!(reported), pin!(renewed));
        let mut liveness = Liveness::default();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(event) = reported.next() => self.heard::<NodeEnforcement>(event.err()),
                // Renewals are many and say nothing by themselves.
                Some(event) = renewed.next() => {
                    self.heard::<Lease>(event.err());
                    continue;
                }
                _ = look.tick() => {}
                else => return Ok(()),
            }
            let (Some(()), Some(())) = (listed(&nodes), listed(&leases)) else {
                continue;
            };
            let alive = liveness.alive(
                leases.state().iter().map(Arc::as_ref),
                Instant::now(),
                Timestamp::now(),
            );
            let concerned = self.reports.put(self.reports_of(&nodes, &alive));
            self.triggers.reported(&concerned);
        }
    }

    fn heard<K: Resource<DynamicType = ()>>(&self, error: Option<watcher::Error>) {
        if let Some(error) = error {
            watch_failed::<K>(&self.metrics, &error);
        }
    }

    /// What these say. A status that is as it was keeps its place, so that it need not be compared.
    fn reports_of(&self, nodes: &Store<NodeEnforcement>, alive: &BTreeSet<String>) -> NodeReports {
        let before = self.reports.now();
        let all = nodes.state().into_iter().filter_map(|node| {
            let (name, status) = (node.name_any(), node.status.as_ref()?);
            let known = before.nodes.get(&name).map(|report| &report.status);
            let status = match known {
                Some(known) if **known == *status => Arc::clone(known),
                _ => Arc::new(status.clone()),
            };
            let alive = alive.contains(&name);
            Some((name, NodeReport { status, alive }))
        });
        NodeReports { nodes: all.collect() }
    }
}

/// Whether a kind was listed once.
fn listed<K>(store: &Store<K>) -> Option<()>
where
    K: reflector::Lookup + Clone + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    use futures::FutureExt;
    store.wait_until_ready().now_or_never()?.ok()
}
