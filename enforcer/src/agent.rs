//! The program that runs on a node: watches in, kernel out.

mod auditing;
mod pod_starts;
mod reporting;
mod syncing;

use std::time::Duration;

use futures::{Stream, StreamExt};
use ringfence_telemetry::health::Check;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use self::auditing::Auditing;
use self::reporting::Reporting;
use crate::audit::Auditor;
use crate::cluster::{Cluster, Kind, Update};
use crate::cni::service::Service;
use crate::conntrack::socket::Conntrack;
use crate::droplog::{Desk, Sighting};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::kernel::{Listening, LocalKernel, News, Tools, Variant};
use crate::metrics::Counters;
use crate::options::Options;
use crate::plan::Planner;
use crate::report::writer::Writer;
use crate::revoke::Revoker;
use crate::ruleset::Family;

/// How long to wait for more changes after one, and after the first of many: a rollout is a few transactions, not a
/// hundred. One that comes after a rest as long as the latter is acted on at once.
const QUIET: Duration = Duration::from_millis(10);
const AT_MOST: Duration = Duration::from_millis(50);
/// How often the kernel is looked at.
const AUDIT: Duration = Duration::from_secs(10);
/// How long to wait, once it was told of a change by others, for the rest of what they do; and between two such looks, for
/// who changes rules all the time must not keep us busy all the time.
const NEWS_QUIET: Duration = Duration::from_millis(20);
const NEWS_PAUSE: Duration = Duration::from_secs(1);
/// How often the CNI plugin's entry is looked for: a pod that starts without it is behind the gate until the API server
/// tells its address.
const KEEP_ENTRY: Duration = Duration::from_secs(1);
/// How long an agent that is told to end waits for the news that its namespace is being deleted.
const LAST_NEWS: Duration = Duration::from_secs(2);

/// What an agent enforces, where and with what.
pub struct Settings {
    /// The node's name.
    pub node: String,
    /// The namespace that the agent runs in, if it runs in a cluster.
    pub own_namespace: Option<String>,
    /// The iptables to use.
    pub variant: Variant,
    /// The families to enforce.
    pub families: Vec<Family>,
    /// What shapes the rules.
    pub options: Options,
    /// The tools.
    pub tools: Tools,
    /// The kernel's connections; `None` leaves those alone that policies no longer allow.
    pub conntrack: Option<Conntrack>,
    /// What tells of others' changes to rules; `None` leaves it to the audits.
    pub news: Option<News>,
    /// Who tells of dropped packets; `None` is nobody.
    pub drops: Option<Desk>,
    /// Whom to tell which connections are ended; `None` is nobody.
    pub ended: Option<Sender<Sighting>>,
    /// Who judges connections by policies on trial; `None` is nobody.
    pub auditor: Option<Auditor>,
    /// Who reports what the kernel holds; `None` is nobody.
    pub report: Option<Writer>,
    /// What is counted.
    pub counters: Counters,
    /// When the program started.
    pub started: Instant,
    /// Becomes ready when the kernel holds what the policies say for the first time, and is not while it cannot be brought
    /// to that.
    pub ready: Check,
}

/// The program that runs on a node.
pub struct Agent {
    settings: Settings,
    engine: Engine<LocalKernel>,
    revoker: Option<Revoker>,
    /// Whether packets are to be compared with the mark of revoked connections; `None` where nobody revokes any.
    guarded: Option<watch::Receiver<bool>>,
    /// By which tightenings of policies connections have been judged; `None` where nobody judges any.
    judged: Option<watch::Receiver<u64>>,
    cluster: Cluster,
    planner: Planner,
    /// Whether leftovers of the other variant have been looked for.
    settled: bool,
    /// When the changes that wait began, and when they will be acted on.
    due: Option<(Instant, Instant)>,
    /// When changes were last acted on.
    synced: Option<Instant>,
    /// When the oldest change came that the kernel does not hold yet.
    waiting: Option<Instant>,
    failures: u32,
    news: Option<Listening>,
    /// When to look at the kernel because of news.
    look: Option<Instant>,
    looked: Option<Instant>,
    /// The CNI plugin, where pods wait for their rules.
    plugin: Option<Service>,
    /// The node has no pod ranges, as far as is known.
    no_ranges: bool,
    reporting: Reporting,
    auditing: Auditing,
}

impl Agent {
    /// An agent that knows nothing yet.
    pub fn new(mut settings: Settings) -> Self {
        let kernel = LocalKernel::new(settings.tools.clone(), settings.variant, &settings.families);
        let families = settings.families.clone();
        let counters = settings.counters.clone();
        let ended = settings.ended.take();
        let revoker = settings
            .conntrack
            .take()
            .map(|conntrack| Revoker::start(conntrack, &settings.options, families, ended, counters));
        let guarded = revoker.as_ref().map(Revoker::guarded);
        let judged = revoker.as_ref().map(Revoker::judged);
        let reporting = Reporting::new(settings.report.take(), settings.variant, &settings.families);
        let auditing = Auditing::new(settings.auditor.take());
        Self {
            reporting,
            auditing,
            cluster: Cluster::new(settings.node.clone()),
            planner: Planner::new(&settings.families, &settings.options),
            guarded,
            judged,
            settings,
            revoker,
            engine: Engine::new(kernel),
            settled: false,
            due: None,
            synced: None,
            waiting: None,
            failures: 0,
            news: None,
            look: None,
            looked: None,
            plugin: None,
            no_ranges: false,
        }
    }

    /// Serves the CNI plugin, too.
    #[must_use]
    pub fn with_plugin(self, plugin: Service) -> Self {
        Self {
            plugin: Some(plugin),
            ..self
        }
    }

    /// Enforces until `shutdown`. The rules stay when the agent goes, except when its own namespace goes: then nobody
    /// would be left to change them.
    ///
    /// # Errors
    /// The updates ended, or the rules could not be removed.
    pub async fn run(
        mut self,
        updates: impl Stream<Item = Update> + Unpin,
        shutdown: CancellationToken,
    ) -> Result<()> {
        self.news = self.settings.news.take().map(News::listen).transpose()?;
        // A burst of updates comes as one batch.
        let mut updates = updates.ready_chunks(1024);
        let mut audit = interval(AUDIT);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drops = self.settings.drops.take();
        let mut keep_entry = interval(KEEP_ENTRY);
        keep_entry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.due.map(|(_, due)| due);
            let look = self.look.filter(|_| due.is_none());
            // Nothing may wait for an enforcer that has never got its rules written.
            let serves = self.settled && self.plugin.is_some();
            let report = self.reporting.due();
            let trial = self.auditing.due();
            self.reporting.pulse();
            tokio::select! {
                () = shutdown.cancelled() => break,
                batch = updates.next() => match batch {
                    Some(batch) => self.take(batch),
                    None => return Err(Error::Api("the watches of the API server ended".to_owned())),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.sync(),
                () = changed(&mut self.news) => self.heard(),
                revoked = told(&mut self.guarded) => self.guard(revoked),
                _ = told(&mut self.judged) => self.answer(),
                () = sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => {
                    self.look = None;
                    self.looked = Some(Instant::now());
                    self.audit();
                }
                () = sleep_until(report.unwrap_or_else(Instant::now)), if report.is_some() => self.report(),
                () = sleep_until(trial.unwrap_or_else(Instant::now)), if trial.is_some() => self.try_out(),
                _ = audit.tick() => self.audit(),
                sighting = sighted(&mut drops) => match (sighting, &mut drops) {
                    (Some(sighting), Some(desk)) => {
                        let story = desk.tell(&sighting, &self.cluster);
                        self.reporting.refused(&story);
                    }
                    _ => drops = None,
                },
                call = pod_starts::next_call(&mut self.plugin) => self.hear(call),
                _ = keep_entry.tick(), if serves => self.keep_entry(),
            }
        }
        if self.is_uninstalled(updates).await {
            let removed = tokio::task::block_in_place(|| self.uninstall())?;
            tracing::info!(?removed, "uninstalled: removed the rules");
        }
        Ok(())
    }

    /// Whether the agent ends because its own namespace is being deleted. The news may come a little later than the
    /// signal.
    async fn is_uninstalled(&mut self, mut updates: impl Stream<Item = Vec<Update>> + Unpin) -> bool {
        let Some(namespace) = self.settings.own_namespace.clone() else {
            return false;
        };
        let deadline = Instant::now() + LAST_NEWS;
        while !self.cluster.is_leaving(&namespace) {
            match tokio::time::timeout_at(deadline, updates.next()).await {
                Ok(Some(batch)) => self.take(batch),
                Ok(None) | Err(_) => return false,
            }
        }
        true
    }

    /// From now on packets are to be compared with the mark, or need not be.
    fn guard(&mut self, revoked: bool) {
        self.planner.guard(revoked);
        if self.settled {
            let now = Instant::now();
            self.due.get_or_insert((now, now));
        }
    }

    /// Somebody else has changed rules: looks soon, and again not before long.
    fn heard(&mut self) {
        let soon = Instant::now() + NEWS_QUIET;
        let look = self.looked.map_or(soon, |last| soon.max(last + NEWS_PAUSE));
        self.look.get_or_insert(look);
    }

    fn take(&mut self, batch: Vec<Update>) {
        let changed = self.cluster.apply_all(batch);
        if self.cluster.take_new_versions() {
            self.reporting.ask();
        }
        if self.cluster.take_trial_changed() {
            self.auditing.changed();
        }
        let policies = self.cluster.count(Kind::Policy);
        self.settings.counters.policies.set(as_gauge(policies));
        let missing = self.cluster.missing();
        if !missing.is_empty() {
            // Acting on half a cluster would open or close everything for a moment.
            self.settings
                .ready
                .failed(format!("waiting for the first list of {missing:?}"));
        } else if changed {
            self.schedule();
        }
    }

    /// Something has changed: the kernel is to hold it soon.
    fn schedule(&mut self) {
        if self.cluster.missing().is_empty() {
            let now = Instant::now();
            self.waiting.get_or_insert(now);
            let rested = self.synced.is_none_or(|last| now >= last + AT_MOST);
            self.due = Some(match self.due {
                None if rested => (now, now),
                None => (now, now + QUIET),
                Some((since, _)) => (since, (now + QUIET).min(since + AT_MOST)),
            });
        }
    }
}

/// Waits for news; for ever, where there are none.
async fn changed(news: &mut Option<Listening>) {
    match news {
        Some(news) => news.changed().await,
        None => std::future::pending().await,
    }
}

/// What is told, when it becomes another; never, where nobody tells.
async fn told<T: Copy>(told: &mut Option<watch::Receiver<T>>) -> T {
    if let Some(told) = told
        && told.changed().await.is_ok()
    {
        return *told.borrow_and_update();
    }
    std::future::pending().await
}

/// Dropped packets to tell of; never where nobody tells of any.
async fn sighted(drops: &mut Option<Desk>) -> Option<Sighting> {
    match drops {
        Some(desk) => desk.next().await,
        None => std::future::pending().await,
    }
}

fn as_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
