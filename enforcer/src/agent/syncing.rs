//! Bringing the kernel to what the cluster says, and seeing that it stays so.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ringfence_policy::NodePolicies;
use tokio::time::Instant;

use super::{Agent, as_gauge};
use crate::conntrack::Judge;
use crate::conntrack::socket::interface_addresses;
use crate::engine::Synced;
use crate::error::{Error, Result};
use crate::kernel::{Listening, remove_rules};
use crate::node;
use crate::ruleset::{Family, Touched};

/// The pause after a failure, doubled up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

impl Agent {
    pub(super) fn sync(&mut self) {
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
        self.synced = Some(Instant::now());
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
        let coming = self.tell_what_comes();
        let written = self.write(&touched);
        // A transaction that failed half way may have tightened, too.
        let tightened = written.as_ref().map_or(true, |synced| synced.tightens);
        if let Some(revoker) = self.revoker.as_ref().filter(|it| it.rules_changed(tightened)) {
            revoker.judge_by(coming.map_or_else(|| self.judge(), Ok)?);
        }
        self.gauge();
        let writes = written?.writes;
        if let Some(revoker) = &self.revoker {
            revoker.compared(self.planner.is_guarded());
        }
        Ok(writes)
    }

    /// Tells whoever looks with older policies in hand what the rules are about to say, so that no connection is revoked that
    /// they admit first.
    fn tell_what_comes(&self) -> Option<Arc<Judge>> {
        let revoker = self.revoker.as_ref().filter(|it| it.looks_with_older())?;
        // What is wrong is said when the judge is needed: rules are written first.
        let judge = self.judge().ok()?;
        revoker.expect(Arc::clone(&judge));
        Some(judge)
    }

    /// What the policies say of connections.
    fn judge(&self) -> Result<Arc<Judge>> {
        let interfaces = interface_addresses()?;
        Ok(Arc::new(self.judge_by(self.cluster.policies(), &interfaces)))
    }

    /// What these policies say of connections, where the node's interfaces have these addresses.
    pub(super) fn judge_by(&self, policies: NodePolicies, interfaces: &[IpAddr]) -> Judge {
        // A kubelet probes from the bridge's address, which is the node's own though no Node object names it.
        let node = [self.cluster.addresses(), interfaces].concat();
        Judge::new(policies, node, self.settings.options.police_own_node)
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

    pub(super) fn audit(&mut self) {
        if !self.settled || self.due.is_some() {
            return;
        }
        self.reporting.gap(node::gap());
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

    pub(super) fn failed(&mut self, error: &Error) {
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

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
