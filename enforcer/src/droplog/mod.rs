//! What was dropped, as the kernel logs it: read, counted together, named, told.
//!
//! ```text
//!  NFLOG ─► reader ─► packet ─► Ledger ─► Sighting ─► names (agent) ─► JSON line, counter, Event
//!           thread    (wire)    first sight at once, then sums
//! ```
//!
//! The kernel limits what it logs by source, destination and port, so counts here are of logged packets, a lower bound of
//! those that were dropped. Nothing here can slow enforcement down or stop it.

pub mod desk;
pub mod events;
pub mod ledger;
pub mod packet;
pub mod reader;
pub mod story;
mod waiting;
pub mod wire;

pub use desk::Desk;
pub use ledger::{Ledger, Sighting};
pub use packet::{Refused, Transport, Verdict};
pub use story::{Party, Story};
