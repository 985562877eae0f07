//! Watches the EnforcementProbe.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use ringfence_crd::{EnforcementProbe, SINGLETON};

use super::Known;
use crate::error::Error;
use crate::metrics::OperatorMetrics;
use crate::stores::{Stores, watch_failed};
use crate::triggers::Triggers;

/// Soon: a change for every namespace.
const SOON: Duration = Duration::from_millis(100);

/// Fills the cache, and has namespaces looked at again whose status repeats what the probe's says.
pub struct Feed {
    known: Known,
    /// Who looks at every namespace's status again.
    triggers: Arc<Triggers>,
    metrics: OperatorMetrics,
}

impl Feed {
    /// A watch that fills the cache in `stores`.
    #[must_use]
    pub fn new(stores: &Stores, triggers: &Arc<Triggers>, metrics: &OperatorMetrics) -> Self {
        Self {
            known: stores.probe.clone(),
            triggers: triggers.clone(),
            metrics: metrics.clone(),
        }
    }

    /// Watches until it is dropped.
    ///
    /// # Errors
    /// When the watch ends, which it never does.
    pub async fn run(self, client: Client) -> Result<(), Error> {
        let (store, writer) = reflector::store();
        let api = Api::<EnforcementProbe>::all(client);
        let events = reflector(writer, watcher(api, watcher::Config::default())).default_backoff();
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Err(error) => watch_failed::<EnforcementProbe>(&self.metrics, &error),
                // Half a list says nothing about what is not there.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(_) => self.put(store.find(|probe| probe.name_any() == SINGLETON).as_ref()),
            }
        }
        Err(Error::Ended("the watch of the EnforcementProbe"))
    }

    fn put(&self, now: Option<&Arc<EnforcementProbe>>) {
        let before = self.known.put(now.cloned());
        if said(now.map(AsRef::as_ref)) != said(before.as_deref()) {
            self.triggers.everything(SOON);
        }
    }
}

/// What namespaces repeat of a probe's status. Times and addresses change with every round and concern nobody.
fn said(probe: Option<&EnforcementProbe>) -> Option<impl PartialEq> {
    let status = probe?.status.clone().unwrap_or_default();
    let conditions: Vec<_> = status
        .conditions
        .into_iter()
        .map(|condition| {
            (
                condition.type_,
                condition.status,
                condition.reason,
                condition.message,
            )
        })
        .collect();
    let failures: Vec<_> = status
        .failures
        .into_iter()
        .map(|failure| (failure.what, failure.node, failure.source, failure.destination))
        .collect();
    Some((conditions, status.nodes, failures, status.failure_count))
}
