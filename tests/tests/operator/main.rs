//! The operator against a real API server, without nodes: what it writes, what it puts back, and what it leaves alone.
//!
//! There is no garbage collector here, so nothing that disappears in these tests disappears with its help.

#![allow(clippy::unwrap_used)]

mod accounts;
mod admission;
mod argocd;
mod audit;
mod baseline;
mod between;
mod changes;
mod continuity;
mod derived;
mod drift;
mod enforced;
mod external;
mod identity;
mod lab;
mod names;
mod probe;
mod refusals;
mod robustness;
mod roles;
mod running;
mod slow_server;
