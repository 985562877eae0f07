//! From a watch into a cache, and on to whom it concerns.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use kube::Resource;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::{WatchStreamExt, watcher};

use super::mirror::{Mirror, Mirrored};
use crate::error::{Error, watch_message};
use crate::metrics::OperatorMetrics;
use crate::sources::kind_names;
use crate::triggers::{Change, Triggers};
use crate::view::ClusterView;

/// Tells and counts that a watch failed and is started again.
pub(crate) fn watch_failed<K: Resource<DynamicType = ()>>(metrics: &OperatorMetrics, error: &watcher::Error) {
    let kind = K::kind(&()).into_owned();
    let cause = watch_message(error);
    tracing::warn!(kind, cause, "a watch failed and is started again");
    metrics.watch_failed(kind_name(&kind));
}

/// Where changes go.
pub(crate) struct Sink {
    mirror: Arc<Mirror>,
    triggers: Arc<Triggers>,
    metrics: OperatorMetrics,
}

impl Sink {
    pub(super) fn new(mirror: Arc<Mirror>, triggers: Arc<Triggers>, metrics: OperatorMetrics) -> Self {
        Self {
            mirror,
            triggers,
            metrics,
        }
    }

    /// Fills a cache from a watch, and tells of every change.
    pub(crate) async fn feed<K>(
        &self,
        events: impl futures::Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
        mut writer: Writer<K>,
        trim: fn(&mut K),
    ) -> Result<(), Error>
    where
        K: Mirrored,
        Change: From<Versions<K>>,
    {
        let store = writer.as_reader();
        let mut events = pin!(events.default_backoff());
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event.modify(trim),
                Err(error) => {
                    self.failed::<K>(&error);
                    continue;
                }
            };
            let change = self.step(&mut writer, &store, &event);
            if let Some(change) = change {
                self.changed(&change);
            }
        }
        Err(Error::Ended("a watch"))
    }

    /// Tells of a change.
    pub(crate) fn changed(&self, change: &Change) {
        self.triggers.changed(change);
    }

    /// Tells of a watch that failed and is started again.
    pub(crate) fn failed<K: Resource<DynamicType = ()>>(&self, error: &watcher::Error) {
        watch_failed::<K>(&self.metrics, error);
    }

    /// Enters an event into the cache. What it changes there, if that is known object by object.
    pub(crate) fn step<K>(
        &self,
        writer: &mut Writer<K>,
        store: &Store<K>,
        event: &watcher::Event<K>,
    ) -> Option<Change>
    where
        K: Mirrored,
        Change: From<Versions<K>>,
    {
        // Whoever decides sees the cache and what it adds up to change together.
        let mut view = self.mirror.lock();
        let key = match event {
            watcher::Event::Apply(object) | watcher::Event::Delete(object) => ObjectRef::from_obj(object),
            watcher::Event::InitDone => {
                store.state().iter().for_each(|object| object.goes(&mut view));
                writer.apply_watcher_event(event);
                store.state().iter().for_each(|object| object.comes(&mut view));
                // What went away while the watch was broken is not told: look at everything again.
                return Some(Change::Relisted);
            }
            watcher::Event::Init | watcher::Event::InitApply(_) => {
                writer.apply_watcher_event(event);
                return None;
            }
        };
        let old = store.get(&key);
        writer.apply_watcher_event(event);
        let new = store.get(&key);
        let versions = Versions { old, new };
        versions.enter(&mut view);
        Some(versions.into())
    }
}

/// An object before and after a change. `None` where there is none.
#[derive(Clone, Debug)]
pub struct Versions<K> {
    /// Before.
    pub old: Option<Arc<K>>,
    /// After.
    pub new: Option<Arc<K>>,
}

impl<K: Mirrored> Versions<K> {
    /// Enters the change into a view.
    pub fn enter(&self, view: &mut ClusterView) {
        match (&self.old, &self.new) {
            (_, Some(new)) => new.comes(view),
            (Some(old), None) => old.goes(view),
            (None, None) => {}
        }
    }
}

/// A kind's name, for labels that live as long as the program.
fn kind_name(kind: &str) -> &'static str {
    const KINDS: [&str; 15] = [
        "AuditNetworkPolicy",
        "CustomResourceDefinition",
        "ExternalAccess",
        "Lease",
        "Namespace",
        "NetworkPolicy",
        "NodeEnforcement",
        "Pod",
        "Service",
        "ServiceAccess",
        "ServiceCIDR",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ZeroTrustBaseline",
        "ZeroTrustNamespace",
    ];
    KINDS
        .into_iter()
        .chain(kind_names())
        .find(|name| *name == kind)
        .unwrap_or("other")
}
