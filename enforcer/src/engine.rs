//! Keeps a kernel at what is wanted: remembers what it holds, writes the difference, and reads it back when in doubt.

use crate::diff::{diff, diff_touched};
use crate::error::Result;
use crate::kernel::Kernel;
use crate::ruleset::{Ruleset, Touched};
use crate::state::{Phase, SetChange, State};

/// How many audits pass between two that read sets in full.
const FULL_AUDIT_EVERY: u32 = 30;

/// Keeps a kernel at what is wanted.
#[derive(Debug)]
pub struct Engine<K> {
    kernel: K,
    /// What the kernel holds; `None` until it was read, and after anything went wrong.
    held: Option<State>,
    audits: u32,
}

/// What a sync did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// Writes, one for each phase.
    pub writes: usize,
    /// Whether some connection that was allowed may no longer be: anything but new elements in sets, and the way in of
    /// connections that are revoked already.
    pub tightens: bool,
}

impl<K: Kernel> Engine<K> {
    /// An engine that knows nothing yet.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            held: None,
            audits: 0,
        }
    }

    /// Makes the kernel hold `wanted`, writing only what differs.
    ///
    /// # Errors
    /// A tool failed. What the kernel holds is read back before the next attempt.
    pub fn sync(&mut self, wanted: &Ruleset) -> Result<Synced> {
        self.commit(wanted, None, true)
    }

    /// As [`Engine::sync`], where nothing but what is `touched` became another since the last. After a sync that failed
    /// everything is compared all the same.
    ///
    /// # Errors
    /// As [`Engine::sync`].
    pub fn sync_touched(&mut self, wanted: &Ruleset, touched: &Touched) -> Result<Synced> {
        self.commit(wanted, Some(touched), true)
    }

    /// As [`Engine::sync`], but leaves sets that nothing here uses: another variant's rules still may.
    ///
    /// # Errors
    /// As [`Engine::sync`].
    pub fn sync_keeping_sets(&mut self, wanted: &Ruleset) -> Result<Synced> {
        self.commit(wanted, None, false)
    }

    /// Looks at the kernel. Returns what somebody else has changed, in words; the next sync repairs it.
    ///
    /// # Errors
    /// A tool failed.
    pub fn audit(&mut self) -> Result<Vec<String>> {
        let Some(held) = &self.held else {
            return Ok(Vec::new());
        };
        self.audits += 1;
        let differences = if self.audits.is_multiple_of(FULL_AUDIT_EVERY) {
            held.differences(&self.kernel.read()?)
        } else {
            held.glance().differences(&self.kernel.glance()?)
        };
        if !differences.is_empty() {
            self.held = None;
        }
        Ok(differences)
    }

    /// What the kernel holds, as far as is known.
    pub fn held(&self) -> Option<&State> {
        self.held.as_ref()
    }

    fn commit(&mut self, wanted: &Ruleset, touched: Option<&Touched>, destroy: bool) -> Result<Synced> {
        let held = self.held.take();
        let touched = touched.filter(|_| held.is_some());
        let mut state = match held {
            Some(held) => held,
            None => self.kernel.read()?,
        };
        let transaction = match touched {
            Some(touched) => diff_touched(&state, wanted, touched)?,
            None => diff(&state, wanted)?,
        };
        let phases = transaction.phases;
        let mut synced = Synced {
            writes: 0,
            tightens: false,
        };
        for phase in phases.into_iter().filter_map(|phase| {
            if destroy {
                Some(phase)
            } else {
                without_destroy(phase)
            }
        }) {
            self.kernel.write(&phase)?;
            synced.writes += 1;
            synced.tightens |= tightens(&phase);
            if let Err(reason) = state.apply(&phase) {
                // The kernel took what our own idea of it would not: the idea is wrong, so it is not kept.
                tracing::warn!(%reason, "the kernel holds something else than was assumed, reading it back");
                return Ok(synced);
            }
        }
        state.share(transaction.settled);
        self.held = Some(state);
        Ok(synced)
    }
}

fn tightens(phase: &Phase) -> bool {
    match phase {
        Phase::Chains(_, change) => !change.is_about_revoked(),
        Phase::Sets(changes) => changes.iter().any(|change| match change {
            SetChange::Remove(name, _) => !name.id().is_known(),
            // Without a chain that changes along with it, it had been taken away by somebody else.
            SetChange::Add(name, _) => name.id().is_isolated(),
            SetChange::Create { .. } | SetChange::Destroy(_) => false,
        }),
    }
}

fn without_destroy(phase: Phase) -> Option<Phase> {
    let Phase::Sets(changes) = phase else {
        return Some(phase);
    };
    let kept: Vec<_> = changes
        .into_iter()
        .filter(|change| !matches!(change, SetChange::Destroy(_)))
        .collect();
    (!kept.is_empty()).then_some(Phase::Sets(kept))
}
