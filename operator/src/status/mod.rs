//! From findings and outcomes to conditions. Pure: the time is an argument.

use ringfence_policy::ObjectKey;

/// A write that the API server refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteFailure {
    /// The policy that was to be written.
    pub policy: ObjectKey,
    /// What the API server said.
    pub message: String,
}
