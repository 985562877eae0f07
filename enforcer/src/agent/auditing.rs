//! What the agent does about policies on trial.

use std::time::Duration;

use tokio::time::Instant;

use super::Agent;
use crate::audit::{Auditor, Trial};
use crate::conntrack::socket::interface_addresses;

/// How long changes of policies on trial wait for more: nobody's packets wait for them.
const QUIET: Duration = Duration::from_millis(200);

/// Who judges by policies on trial, and when he is to be told of a change.
pub(super) struct Auditing {
    auditor: Option<Auditor>,
    due: Option<Instant>,
}

impl Auditing {
    pub(super) fn new(auditor: Option<Auditor>) -> Self {
        Self { auditor, due: None }
    }

    /// When to tell of a change.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The policies with those on trial mean something else.
    pub(super) fn changed(&mut self) {
        if self.auditor.is_some() {
            self.due.get_or_insert(Instant::now() + QUIET);
        }
    }
}

impl Agent {
    /// Tells what the policies say with those on trial.
    pub(super) fn try_out(&mut self) {
        self.auditing.due = None;
        if !self.cluster.missing().is_empty() {
            // Half a cluster would make it all wrong.
            self.auditing.changed();
            return;
        }
        let Some(auditor) = &self.auditing.auditor else {
            return;
        };
        let edition = self.cluster.versions().audit_edition();
        let trial = self.cluster.trial().map(|policies| {
            let interfaces = interface_addresses().unwrap_or_default();
            let judge = self.judge_by(policies, &interfaces);
            Trial { judge, edition }
        });
        auditor.judge_by(trial);
    }
}
