//! What a program says about its own health: named checks, each with the reason why it is not well.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The checks of a program. Cheap to clone; clones share their checks.
///
/// A check stands for one thing that must be so before the program can do its work ("stores have synced"). It is
/// not ready until someone says so. Liveness checks are the few things that only a restart repairs: a program is
/// alive while none of them says otherwise.
#[derive(Clone, Default)]
pub struct Health {
    checks: Arc<Mutex<BTreeMap<String, State>>>,
}

#[derive(Clone, Debug)]
struct State {
    kind: Kind,
    /// `None` when all is well.
    problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ready,
    Live,
}

/// The handle by which one part of a program reports how it is.
#[derive(Clone)]
pub struct Check {
    name: String,
    health: Health,
}

/// What a probe is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether every check is well.
    pub ok: bool,
    /// One line per check, in the order of their names.
    pub text: String,
}

impl Health {
    /// No checks: alive and ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// A readiness check by this name, not ready for the reason given until its handle says otherwise.
    pub fn readiness(&self, name: impl Into<String>, reason: impl Into<String>) -> Check {
        self.add(
            name.into(),
            State {
                kind: Kind::Ready,
                problem: Some(reason.into()),
            },
        )
    }

    /// A liveness check by this name, well until its handle says otherwise.
    pub fn liveness(&self, name: impl Into<String>) -> Check {
        self.add(
            name.into(),
            State {
                kind: Kind::Live,
                problem: None,
            },
        )
    }

    /// Whether the program lives: what `/healthz` answers.
    pub fn live(&self) -> Report {
        self.report(|kind| kind == Kind::Live)
    }

    /// Whether the program can do its work: what `/readyz` answers. One that is not alive is not ready either.
    pub fn ready(&self) -> Report {
        self.report(|_| true)
    }

    fn add(&self, name: String, state: State) -> Check {
        self.lock().insert(name.clone(), state);
        Check {
            name,
            health: self.clone(),
        }
    }

    fn report(&self, counts: impl Fn(Kind) -> bool) -> Report {
        let mut report = Report {
            ok: true,
            text: String::new(),
        };
        for (name, state) in self.lock().iter().filter(|(_, state)| counts(state.kind)) {
            // Writing to a String cannot fail.
            let _ = match &state.problem {
                None => writeln!(report.text, "[+] {name} ok"),
                Some(problem) => writeln!(report.text, "[-] {name}: {problem}"),
            };
            report.ok &= state.problem.is_none();
        }
        report.text.push_str(if report.ok { "ok\n" } else { "failed\n" });
        report
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        // The map is whole after every statement, so a panic elsewhere leaves it usable.
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Check {
    /// All is well.
    pub fn ok(&self) {
        self.set(None);
    }

    /// Something is wrong, and this is what.
    pub fn failed(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    /// Whether the check is well.
    pub fn is_ok(&self) -> bool {
        self.health
            .lock()
            .get(&self.name)
            .is_none_or(|state| state.problem.is_none())
    }

    fn set(&self, problem: Option<String>) {
        if let Some(state) = self.health.lock().get_mut(&self.name) {
            state.problem = problem;
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.lock()
                    .iter()
                    .map(|(name, state)| (name.clone(), state.clone())),
            )
            .finish()
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name)
            .field("ok", &self.is_ok())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_ready_when_every_check_is_and_says_why_when_not() {
        let health = Health::new();
        let stores = health.readiness("stores", "Pods: not listed yet");
        let rules = health.readiness("rules", "not written yet");
        stores.ok();
        let report = health.ready();
        assert!(!report.ok);
        assert_eq!(report.text, "[-] rules: not written yet\n[+] stores ok\nfailed\n");
        rules.ok();
        assert!(health.ready().ok);
        stores.failed("Pods: the watch has failed for 90 s");
        assert!(!health.ready().ok);
    }

    #[test]
    fn not_being_ready_is_no_reason_to_be_restarted() {
        let health = Health::new();
        let _stores = health.readiness("stores", "not listed yet");
        let loops = health.liveness("loop");
        assert!(health.live().ok);
        loops.failed("no turn for 5 min");
        assert!(!health.live().ok);
    }
}
