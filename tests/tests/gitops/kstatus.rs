//! What tools that go by kstatus make of an object: its published rules for kinds that it does not know.
//!
//! <https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md>

use serde_json::Value;

/// What an object is found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It is as its spec wants it.
    Current,
    /// It is on its way there.
    InProgress,
    /// It cannot get there by itself.
    Failed,
    /// It is on its way out.
    Terminating,
}

/// Reads an object.
pub(crate) fn read(object: &Value) -> Status {
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return Status::Terminating;
    }
    let status = &object["status"];
    let observed = &status["observedGeneration"];
    if !observed.is_null() && *observed != object["metadata"]["generation"] {
        return Status::InProgress;
    }
    let condition = |kind: &str| {
        let mut all = status["conditions"].as_array().into_iter().flatten();
        all.find(|condition| condition["type"] == kind)
            .map(|condition| condition["status"].as_str().unwrap_or_default())
    };
    if condition("Reconciling") == Some("True") {
        return Status::InProgress;
    }
    if condition("Stalled") == Some("True") {
        return Status::Failed;
    }
    // Where neither of the two is told, Ready decides, if there is one.
    match condition("Ready") {
        Some("False" | "Unknown") => Status::InProgress,
        _ => Status::Current,
    }
}
