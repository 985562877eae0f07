//! Turns Ringfence resources into NetworkPolicies.
//!
//! ```text
//!  ZeroTrustNamespace, ServiceAccess, ExternalAccess, Service, Namespace, Pod, NetworkPolicy, DNS answers
//!      │ watched into
//!      ▼
//!  view::ClusterView ──► generate ──► Generated { policies, findings }
//!      │                                  │            │
//!      ├──────────────► transition::plan ◄┘            │
//!      │                    │ steps, in order          │
//!      │                    ▼                          ▼
//!      │                API server ──────────────► status
//!      └──────────────────────────────────────────────▲
//! ```
//!
//! Everything above the API server is pure: values in, values out.

pub mod accounts;
pub mod callbacks;
pub mod foreign;
pub mod form;
pub mod generate;
mod governance;
pub mod names;
pub mod ownership;
pub mod status;
pub mod transition;
pub mod view;

pub mod apply;
pub mod args;
pub mod controller;
pub mod dns;
pub mod error;
pub mod events;
pub mod expectations;
mod inventory;
pub mod leader;
pub mod metrics;
pub mod probe;
mod publish;
pub mod queue;
pub mod reports;
pub mod run;
pub mod sources;
pub mod stores;
pub mod triggers;
pub mod uninstall;
