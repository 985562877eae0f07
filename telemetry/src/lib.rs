//! Logs, health, metrics and shutdown, the same in every Ringfence program.
//!
//! ```text
//!   LogArgs::init ──► tracing (text for people, JSON for machines)
//!
//!   Health ─┐
//!   Metrics ┴─► http::serve ──► /healthz /readyz /metrics
//!      ▲
//!      └── ApiRequests ◄── client::connect: every request to the API server, counted and bounded in time
//!
//!   shutdown::on_signals ──► CancellationToken ──► everything that runs
//! ```
//!
//! A program reads its arguments, starts the log, builds a [`Metrics`](metrics::Metrics) and a
//! [`Health`](health::Health), registers what it measures, connects, and serves. Nothing here knows what the
//! program is about.

pub mod api_requests;
pub mod client;
pub mod events;
pub mod health;
pub mod http;
pub mod logs;
pub mod metrics;
mod process;
pub mod shutdown;
