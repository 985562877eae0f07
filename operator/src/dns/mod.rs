//! DNS names as peers: what they stand for, and for how long.
//!
//! ```text
//!  ExternalAccesses ─ names ─► Book ◄─ answers, with their time to live ─ Resolve (the one place with I/O)
//!                               │ addresses: of the last answer, and for a while those of answers before
//!                               ▼
//!                           ClusterView ─► generate ─► NetworkPolicies
//! ```

mod book;
mod follow;
mod inside;
mod resolver;

pub use book::{Answer, Book, Limits, Resolution, Room, State};
pub use follow::Names;
pub(crate) use follow::names_of;
pub use inside::{Inside, Place};
pub use resolver::{Resolve, Unanswered, system};
