//! The controllers: a namespace's policies and status, and a ServiceAccess's status.
//!
//! ```text
//!  caches ──change──► Triggers ──Key──► Queue ──► worker: snapshot ─► generate ─► plan ─► Applier ─► status
//! ```
//!
//! The unit of writing is the namespace: one worker at a time reads a snapshot, decides, writes the policies of that
//! namespace in the planned order, and then its ZeroTrustNamespace's status. A ServiceAccess's own turn writes its
//! status only.
//!
//! # Why there is no finalizer
//!
//! When a ZeroTrustNamespace goes, its policies must go in order (bridges first), so the garbage collector must not be
//! quicker. A finalizer would see to that, and would break something worse: `kubectl delete -k` takes the operator's
//! service account and role binding away within milliseconds of the CustomResourceDefinitions, and a finalizer that
//! nobody may remove any more blocks the definitions, and every namespace with a ZeroTrustNamespace, for ever.
//!
//! So policies have two owners: the ZeroTrustNamespace or ServiceAccess of their namespace, and the
//! CustomResourceDefinition of ZeroTrustNamespaces. While one owner lives the collector keeps the policy. A ZeroTrustNamespace that goes alone leaves its policies to the operator, also
//! to one that was not running at the time: they are known by that second owner and by who manages them. When
//! everything goes at once, so does the definition, and the collector removes the rest without anybody's help.

mod access;
mod baseline;
mod external;
mod namespace;
mod settle;
mod snapshot;
mod status;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use kube::Client;
use ringfence_policy::ObjectKey;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::apply::{Applier, Owed};
use crate::dns::Names;
use crate::error::Error;
use crate::events::Events;
use crate::expectations::Versions;
use crate::generate::GeneratorConfig;
use crate::leader::Fence;
use crate::metrics::OperatorMetrics;
use crate::queue::{Done, Queue};
use crate::status::{Summary, WriteFailure};
use crate::stores::Stores;
use crate::triggers::Key;

pub(crate) use snapshot::{anchor_of, enter};

/// The pause before looking again at a cache that lags behind our own writes.
const LAG: Duration = Duration::from_millis(20);

/// What every worker shares.
pub struct Controller {
    client: Client,
    stores: Stores,
    queue: Arc<Queue<Key>>,
    generator: GeneratorConfig,
    names: Arc<Names>,
    applier: Applier,
    fence: Fence,
    events: Events,
    metrics: OperatorMetrics,
    owed: Owed,
    versions: Mutex<Versions<Key>>,
    newcomers: Mutex<settle::Newcomers>,
    /// Since when ServiceAccesses wait for their policies without saying so.
    waiting: Mutex<BTreeMap<ObjectKey, Instant>>,
    /// Writes that the API server refuses, by namespace, until they succeed.
    failures: Mutex<BTreeMap<String, WriteFailure>>,
    /// What there is to say of namespaces that go by the ZeroTrustBaseline alone.
    summaries: Mutex<BTreeMap<String, Summary>>,
}

/// What a controller is made of.
pub struct Parts {
    /// The connection.
    pub client: Client,
    /// The caches.
    pub stores: Stores,
    /// What there is to do.
    pub queue: Arc<Queue<Key>>,
    /// What the administrator set.
    pub generator: GeneratorConfig,
    /// What DNS names stand for.
    pub names: Arc<Names>,
    /// Open while writing is permitted.
    pub fence: Fence,
    /// Where Events go.
    pub events: Events,
    /// Where counts go.
    pub metrics: OperatorMetrics,
}

impl Controller {
    /// A controller that has not seen anything yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            client,
            stores,
            queue,
            generator,
            names,
            fence,
            events,
            metrics,
        } = parts;
        let owed = Owed::default();
        let applier = Applier::new(client.clone(), fence.clone(), metrics.clone(), owed.clone());
        Arc::new(Self {
            client,
            stores,
            queue,
            generator,
            names,
            applier,
            fence,
            events,
            metrics,
            owed,
            versions: Mutex::default(),
            newcomers: Mutex::default(),
            waiting: Mutex::default(),
            failures: Mutex::default(),
            summaries: Mutex::default(),
        })
    }

    /// Works with `workers` at a time until `shutdown`; what is begun is finished.
    ///
    /// # Errors
    ///
    /// When a worker dies, which none ever does.
    pub async fn run(self: Arc<Self>, workers: usize, shutdown: CancellationToken) -> Result<(), Error> {
        let mut tasks = JoinSet::new();
        for _ in 0..workers.max(1) {
            tasks.spawn(self.clone().worker(shutdown.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|_| Error::Ended("a worker"))?;
        }
        Ok(())
    }

    async fn worker(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let key = tokio::select! {
                // A full queue must not keep the program from ending.
                biased;
                () = shutdown.cancelled() => return,
                key = self.queue.next() => key,
            };
            let done = self.work(&key).await;
            self.queue.done(&key, done);
            self.metrics.queued(self.queue.len());
        }
    }

    /// One look at one key. Whatever goes wrong stays with this key.
    async fn work(&self, key: &Key) -> Done {
        let started = Instant::now();
        let work = async {
            match key {
                Key::Namespace(name) => self.namespace(name).await,
                Key::Access(access) => self.access(access).await,
                Key::External(external) => self.external(external).await,
                Key::Baseline => self.baseline().await,
            }
        };
        let (controller, what) = match key {
            Key::Namespace(name) => ("namespace", format!("namespace {name}")),
            Key::Access(access) => ("access", format!("ServiceAccess {access}")),
            Key::External(external) => ("external", format!("ExternalAccess {external}")),
            Key::Baseline => ("baseline", "the ZeroTrustBaseline".to_owned()),
        };
        let result = AssertUnwindSafe(work).catch_unwind().await;
        let result = result.unwrap_or_else(|_| Err(Error::Panicked { what: what.clone() }));
        let name = result.as_ref().map_or_else(Error::name, |_| "ok");
        self.metrics.reconciled(controller, name, started.elapsed());
        match result {
            Ok(done) => done,
            Err(error) if error.is_conflict() => {
                tracing::debug!(what, %error, "changed under our hands, looking again");
                Done::Failed
            }
            Err(error) => {
                tracing::warn!(what, %error, reason = error.name(), "failed, trying again later");
                Done::Failed
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded here stays consistent statement by statement, so a panic elsewhere does no harm.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
