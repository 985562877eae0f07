//! What can go wrong at the edges: one stable name per case, used in logs, metrics and Events alike.

use ringfence_telemetry::client::{ConnectError, TimedOut};
use ringfence_telemetry::http::HttpError;
use ringfence_telemetry::logs::LogError;

use kube::runtime::watcher;

use crate::leader::LeaderError;

/// Why the operator could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused a request.
    #[error("{what}: {message}")]
    Api {
        /// What was tried, with the object's name.
        what: String,
        /// Which kind of refusal.
        refusal: Refusal,
        /// What the API server said.
        message: String,
    },
    /// The leader's lease has run out or was lost: nothing more may be written.
    #[error("{what}: no longer the leader, so another replica may be writing")]
    NotLeading {
        /// What was about to be written.
        what: String,
    },
    /// What came back from a write is not what was sent.
    #[error(
        "{what}: the API server stored something else ({field} differs): exempt it from the mutating webhook or policy that changed it"
    )]
    Altered {
        /// The object.
        what: String,
        /// The first field that differs.
        field: &'static str,
    },
    /// An answer of the API server lacks something that every answer has.
    #[error("{what}: the API server's answer has no {field}")]
    Incomplete {
        /// What was asked.
        what: String,
        /// What is missing.
        field: &'static str,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Probes and metrics.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Leader election.
    #[error(transparent)]
    Leader(#[from] LeaderError),
    /// Signal handlers.
    #[error("signal handlers can't be installed: {0}")]
    Signals(std::io::Error),
    /// A part of the program ended that never should.
    #[error("{0} ended unexpectedly: this is a bug")]
    Ended(&'static str),
    /// The work on one object panicked. Others go on.
    #[error("{what} panicked: this is a bug")]
    Panicked {
        /// What was worked on.
        what: String,
    },
    /// Work that was begun does not end.
    #[error("work did not end within {0:?} of losing the Lease or of being told to stop: leaving it behind")]
    Stuck(std::time::Duration),
    /// A pod of the probe can't do its work.
    #[error("{0}")]
    Probe(String),
    /// Another operator is at work.
    #[error("{0}")]
    Busy(String),
}

/// Kinds of refusal that are treated apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The object is another one by now, or there is one already: look again.
    Conflict,
    /// There is no such object.
    NotFound,
    /// Not permitted: RBAC, an admission policy or a quota.
    Forbidden,
    /// The API server finds the object invalid.
    Invalid,
    /// Too many requests.
    Throttled,
    /// No answer in time, or none at all.
    Unreachable,
    /// Anything else.
    Other,
}

impl Refusal {
    /// The kind of a failed request.
    pub fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                404 => Self::NotFound,
                409 => Self::Conflict,
                401 | 403 => Self::Forbidden,
                400 | 422 => Self::Invalid,
                429 => Self::Throttled,
                503 | 504 => Self::Unreachable,
                _ => Self::Other,
            },
            kube::Error::HyperError(_) | kube::Error::Service(_) => Self::Unreachable,
            _ => Self::Other,
        }
    }

    /// Its stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Conflict => "Conflict",
            Self::NotFound => "NotFound",
            Self::Forbidden => "Forbidden",
            Self::Invalid => "Refused",
            Self::Throttled => "Throttled",
            Self::Unreachable => "Unreachable",
            Self::Other => "ApiError",
        }
    }
}

impl Error {
    /// A failed request, with what was tried, such as "create NetworkPolicy shop/api".
    pub fn api(what: impl Into<String>, error: &kube::Error) -> Self {
        Self::Api {
            what: what.into(),
            refusal: Refusal::of(error),
            message: message(error),
        }
    }

    /// The case's stable name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Api { refusal, .. } => refusal.name(),
            Self::NotLeading { .. } => "NotLeading",
            Self::Altered { .. } => "Altered",
            Self::Incomplete { .. } => "Incomplete",
            Self::Log(_) => "Log",
            Self::Connect(_) => "Connect",
            Self::Http(_) => "Http",
            Self::Leader(_) => "Leader",
            Self::Signals(_) => "Signals",
            Self::Ended(_) => "Ended",
            Self::Panicked { .. } => "Panicked",
            Self::Stuck(_) => "Stuck",
            Self::Probe(_) => "Probe",
            Self::Busy(_) => "Busy",
        }
    }

    /// Whether the object changed under our hands, which a second look settles and nobody needs to be told of.
    pub fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Api {
                refusal: Refusal::Conflict | Refusal::NotFound,
                ..
            }
        )
    }
}

/// Why a watch failed, without the whole Status that the API server answered with.
pub(crate) fn watch_message(error: &watcher::Error) -> String {
    let (what, cause) = match error {
        watcher::Error::InitialListFailed(error) => ("list", message(error)),
        watcher::Error::WatchStartFailed(error) => ("start watching", message(error)),
        watcher::Error::WatchFailed(error) => ("watch", message(error)),
        watcher::Error::WatchError(status) => ("watch", status.message.clone()),
        watcher::Error::NoResourceVersion => ("watch", "an answer has no resourceVersion".to_owned()),
    };
    format!("{what}: {cause}")
}

/// What the API server said, without the whole Status around it.
pub(crate) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        kube::Error::Api(status) => format!("HTTP status {}", status.code),
        kube::Error::Service(source) => match source.downcast_ref::<TimedOut>() {
            Some(timeout) => timeout.to_string(),
            None => chain(source.as_ref()),
        },
        other => chain(other),
    }
}

/// An error and its causes: "connect failed: connection refused".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn answer(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status {
            code,
            message: message.to_owned(),
            ..Status::default()
        }))
    }

    #[test]
    fn only_the_servers_message_is_passed_on() {
        let error = Error::api(
            "create NetworkPolicy shop/api",
            &answer(403, "exceeded quota: policies"),
        );
        assert_eq!(
            error.to_string(),
            "create NetworkPolicy shop/api: exceeded quota: policies"
        );
        assert_eq!(error.name(), "Forbidden");
    }

    #[test]
    fn conflicts_are_told_from_what_needs_telling() {
        assert!(Error::api("x", &answer(409, "")).is_conflict());
        assert!(!Error::api("x", &answer(422, "")).is_conflict());
    }
}
