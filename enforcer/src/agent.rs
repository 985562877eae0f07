//! The program that runs on a node: watches in, kernel out.

mod auditing;
mod pod_starts;
mod reporting;

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt};
use ringfence_telemetry::health::Check;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use self::auditing::Auditing;
use self::reporting::Reporting;
use crate::audit::Auditor;
use crate::cluster::{Cluster, Kind, Update};
use crate::cni::service::Service;
use crate::conntrack::Judge;
use crate::conntrack::socket::{Conntrack, interface_addresses};
use crate::droplog::{Desk, Sighting};
use crate::engine::{Engine, Synced};
use crate::error::{Error, Result};
use crate::kernel::{Listening, LocalKernel, News, Tools, Variant, remove_rules};
use crate::metrics::Counters;
use crate::options::Options;
use crate::plan::Planner;
use crate::report::writer::Writer;
use crate::revoke::Revoker;
use crate::ruleset::{Family, Touched};

/// How long to wait for more changes after one, and after the first of many: a rollout is one transaction, not a
/// hundred.
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
/// The pause after a failure, doubled up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

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
    cluster: Cluster,
    planner: Planner,
    /// Whether leftovers of the other variant have been looked for.
    settled: bool,
    /// When the changes that wait began, and when they will be acted on.
    due: Option<(Instant, Instant)>,
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
        let mark = settings.options.revoked_mark;
        let families = settings.families.clone();
        let counters = settings.counters.clone();
        let revoker = settings
            .conntrack
            .take()
            .map(|conntrack| Revoker::start(conntrack, mark, families, counters));
        let reporting = Reporting::new(settings.report.take(), settings.variant, &settings.families);
        let auditing = Auditing::new(settings.auditor.take());
        Self {
            reporting,
            auditing,
            cluster: Cluster::new(settings.node.clone()),
            planner: Planner::new(&settings.families, &settings.options),
            settings,
            revoker,
            engine: Engine::new(kernel),
            settled: false,
            due: None,
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
            let since = self.due.map_or(now, |(since, _)| since);
            self.due = Some((since, (now + QUIET).min(since + AT_MOST)));
        }
    }

    fn sync(&mut self) {
        // A change is as old as the first that waited; a retry or a repair begins now.
        let started = self
            .due
            .take()
            .map_or_else(Instant::now, |(since, _)| since.min(Instant::now()));
        // What is told from here on is about our own writes. What others do meanwhile is left to the audits.
        if self.news.as_mut().is_some_and(Listening::take) {
            self.heard();
        }
        let result = tokio::task::block_in_place(|| self.commit());
        self.news.as_mut().map(Listening::take);
        match result {
            Ok(writes) => {
                self.failures = 0;
                self.settings.ready.ok();
                self.settings.counters.syncs.inc();
                // A repair is nobody's change.
                if let Some(since) = self.waiting.take() {
                    let took = since.elapsed().as_secs_f64();
                    self.settings.counters.change_to_kernel.observe(took);
                }
                if self.settings.counters.start_to_sync.get() == 0.0 {
                    let since = self.settings.started.elapsed().as_secs_f64();
                    self.settings.counters.start_to_sync.set(since);
                }
                self.settings.counters.last_sync.set(now());
                self.reporting.synced();
                tracing::debug!(writes, elapsed = ?started.elapsed(), "the kernel holds what the policies say");
                self.answer();
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Brings the kernel to what the cluster says now. Returns the number of writes.
    fn commit(&mut self) -> Result<usize> {
        let own: Vec<IpAddr> = self.cluster.addresses().to_vec();
        let ranges = self.cluster.pod_ranges().to_vec();
        let (compiled, stale) = self.cluster.compiled();
        self.planner.update(compiled, &own, &stale);
        if self.settings.options.gate_unknown_pods {
            let node = [own.as_slice(), &interface_addresses()?].concat();
            self.planner.update_gate(compiled, &node, &ranges);
            self.say_without_ranges(ranges.is_empty());
        }
        let touched = self.planner.take_touched();
        let written = self.write(&touched);
        // A transaction that failed half way may have tightened, too.
        let tightened = written.as_ref().map_or(true, |synced| synced.tightens);
        if let Some(revoker) = self.revoker.as_ref().filter(|it| it.rules_changed(tightened)) {
            // A kubelet probes from the bridge's address, which is the node's own though no Node object names it.
            let node: Vec<IpAddr> = own.iter().copied().chain(interface_addresses()?).collect();
            let policies = self.cluster.policies();
            let judge = Judge::new(policies, node, self.settings.options.police_own_node);
            revoker.judge_by(judge);
        }
        self.gauge();
        Ok(written?.writes)
    }

    fn write(&mut self, touched: &Touched) -> Result<Synced> {
        let ruleset = self.planner.ruleset();
        if !self.settled {
            // Ours first, then the leftovers away: the node is never without rules.
            let first = self.engine.sync_keeping_sets(ruleset)?;
            self.remove_leftovers()?;
            self.settled = true;
            let second = self.engine.sync(self.planner.ruleset())?;
            let (writes, tightens) = (first.writes + second.writes, first.tightens || second.tightens);
            return Ok(Synced { writes, tightens });
        }
        self.engine.sync_touched(ruleset, touched)
    }

    /// Removes what an earlier run left in the other variant, or in a family that is no longer enforced.
    fn remove_leftovers(&self) -> Result<()> {
        let not_ours: Vec<_> = Family::ALL
            .into_iter()
            .filter(|family| !self.settings.families.contains(family))
            .collect();
        let places = [
            (self.settings.variant.other(), Family::ALL.as_slice()),
            (self.settings.variant, not_ours.as_slice()),
        ];
        for (variant, families) in places {
            match remove_rules(&self.settings.tools, variant, families) {
                Ok(removed) if removed.is_empty() => {}
                Ok(removed) => tracing::info!(?removed, "removed what an earlier run had left"),
                // Tools that are not installed cannot have left anything that this image could remove.
                Err(Error::ToolMissing { tool, .. }) => tracing::debug!(%tool, "not installed"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn audit(&mut self) {
        if !self.settled || self.due.is_some() {
            return;
        }
        match tokio::task::block_in_place(|| self.engine.audit()) {
            Ok(differences) if differences.is_empty() => {
                self.settings.counters.last_sync.set(now());
            }
            Ok(differences) => {
                tracing::warn!(?differences, "something else changed the rules, repairing them");
                self.settings.counters.repairs.inc();
                self.sync();
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &Error) {
        let pause = FIRST_RETRY
            .saturating_mul(2_u32.saturating_pow(self.failures))
            .min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.settings.counters.error(error.name());
        self.settings.ready.failed(format!("{}: {error}", error.name()));
        self.reporting.failed(error);
        tracing::error!(%error, ?pause, "the kernel does not hold what the policies say; trying again");
        let again = Instant::now() + pause;
        self.due = Some((again, again));
    }

    /// Says once that there is nothing to gate by.
    fn say_without_ranges(&mut self, none: bool) {
        if none && !self.no_ranges {
            tracing::warn!(
                "this Node has no spec.podCIDRs: pods that have just started are not held back until their addresses are \
                 known"
            );
        }
        self.no_ranges = none;
    }

    fn gauge(&self) {
        let tables = self.planner.ruleset().families.values();
        let sets: usize = tables.clone().map(|tables| tables.sets.len()).sum();
        let rules: usize = tables
            .flat_map(|tables| tables.chains.values())
            .map(Vec::len)
            .sum();
        let counters = &self.settings.counters;
        counters.isolated_pods.set(as_gauge(self.cluster.isolated_pods()));
        counters.sets.set(as_gauge(sets));
        counters.rules.set(as_gauge(rules));
    }
}

/// Waits for news; for ever, where there are none.
async fn changed(news: &mut Option<Listening>) {
    match news {
        Some(news) => news.changed().await,
        None => std::future::pending().await,
    }
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

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
