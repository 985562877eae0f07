//! When the agent tells what the kernel holds, and what it tells.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::Agent;
use crate::cluster::Kind;
use crate::droplog::Story;
use crate::error::Error;
use crate::kernel::Variant;
use crate::report::writer::Writer;
use crate::report::{Book, State};
use crate::ruleset::Family;

/// The least time between two reports of what the kernel holds, and the most that dropped packets wait to be in one.
const REPORT: Duration = Duration::from_secs(1);
const REPORT_DROPS: Duration = Duration::from_secs(60);
/// Who tries policies out waits for what would be dropped.
const REPORT_FINDINGS: Duration = Duration::from_secs(5);

/// What is to be told, and when.
pub(super) struct Reporting {
    /// Who writes; `None` is nobody.
    writer: Option<Writer>,
    book: Book,
    last_error: Option<(&'static str, String)>,
    /// What passes the rules by, whatever the kernel holds.
    gap: Option<String>,
    /// When the kernel last came to hold what the policies say.
    synced: Option<Timestamp>,
    reported: Option<Instant>,
    due: Option<Instant>,
}

impl Reporting {
    pub(super) fn new(writer: Option<Writer>, variant: Variant, families: &[Family]) -> Self {
        let named = families.iter().map(|family| match family {
            Family::V4 => "IPv4".to_owned(),
            Family::V6 => "IPv6".to_owned(),
        });
        Self {
            writer,
            book: Book::new(format!("iptables-{variant}"), named.collect()),
            last_error: None,
            gap: None,
            synced: None,
            reported: None,
            due: None,
        }
    }

    /// When to tell next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The agent lives.
    pub(super) fn pulse(&self) {
        if let Some(writer) = &self.writer {
            writer.pulse();
        }
    }

    /// Something is to be told soon: at once if nothing was told lately.
    pub(super) fn ask(&mut self) {
        let now = Instant::now();
        self.tell_at(self.reported.map_or(now, |last| now.max(last + REPORT)));
    }

    /// Packets were dropped, or connections would be. There are always more: they wait for something else to be told, or a
    /// while.
    pub(super) fn refused(&mut self, story: &Story) {
        self.book.refused(story, Instant::now().into_std());
        let wait = if story.verdict.is_on_trial() {
            REPORT_FINDINGS
        } else {
            REPORT_DROPS
        };
        self.tell_at(Instant::now() + wait);
    }

    /// The kernel holds what the policies say.
    pub(super) fn synced(&mut self) {
        self.last_error = None;
        self.synced = Some(Timestamp::now());
        self.ask();
    }

    /// The kernel does not hold what the policies say.
    pub(super) fn failed(&mut self, error: &Error) {
        self.last_error = Some((error.name(), error.to_string()));
        self.ask();
    }

    /// This passes the rules by, or nothing does.
    pub(super) fn gap(&mut self, gap: Option<String>) {
        if self.gap == gap {
            return;
        }
        match &gap {
            Some(gap) => tracing::error!("{gap}"),
            None => tracing::info!("nothing passes the rules by any more"),
        }
        self.gap = gap;
        self.ask();
    }

    fn tell_at(&mut self, time: Instant) {
        self.due = Some(self.due.map_or(time, |before| before.min(time)));
    }

    fn tell(&mut self, state: &State<'_>, changes_wait: bool) {
        self.due = None;
        let Some(writer) = &self.writer else {
            return;
        };
        if state.versions.node_uid().is_none() {
            writer.be_silent();
            return;
        }
        let gap = self.gap.as_ref().map(|gap| ("PassedBy", gap));
        let error = self.last_error.as_ref().map(|(name, message)| (*name, message));
        match (error.or(gap), self.synced) {
            (Some((name, message)), _) => self.book.failed(state, name, message, Timestamp::now()),
            // The cluster is ahead of the kernel: the sync asks again.
            (None, Some(written)) if !changes_wait => self.book.synced(state, written, Timestamp::now()),
            _ => return,
        }
        if let Some(status) = self.book.status(Instant::now().into_std()) {
            writer.tell(status);
        }
        self.reported = Some(Instant::now());
    }
}

impl Agent {
    /// Tells what the kernel holds.
    pub(super) fn report(&mut self) {
        let state = State {
            compiled: self.cluster.meaning(),
            versions: self.cluster.versions(),
            ruleset: self.planner.ruleset(),
            policies: self.cluster.count(Kind::Policy),
        };
        self.reporting.tell(&state, self.due.is_some());
    }
}
