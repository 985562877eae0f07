//! Makes a node enforce NetworkPolicies itself, with ipset and iptables.
//!
//! ```text
//!  API server ──watch──► Cluster ──Resolver──► NodePolicies   (who may reach which ports: ringfence-policy)
//!                                               │ plan
//!                                               ▼
//!                                            Ruleset           (sets and chains of both families, by logical name)
//!                                               │ diff ◄── State (what the kernel holds: read back, or last written)
//!                                               ▼
//!                                          Transaction         (phases: fill, switch, drain)
//!                                               │ commit
//!                                               ▼
//!                                    ipset by netlink, iptables-restore --noflush
//! ```
//!
//! Everything above `commit` is pure: values in, values out. [`engine`] holds the two ends together, [`kernel`] runs
//! the tools, [`agent`] watches the API server. [`simulate`] walks a [`State`](state::State) the way the kernel
//! does, so that a property test can hold the rules against the meaning of the policies.
//!
//! # The rules
//!
//! ```text
//! FORWARD, first of all (and INPUT with --police-own-node)
//!   revoked connection                        -> RINGF-FORWARD   (while any is revoked)
//!   not ESTABLISHED                           -> RINGF-FORWARD
//! RINGF-FORWARD
//!   revoked connection                        -> RINGF-REVOKED   (reset or reject)
//!   source in the isolated set                -> RINGF-EGRESS
//!   destination in the isolated set           -> RINGF-INGRESS
//! RINGF-EGRESS, RINGF-INGRESS
//!   prefix                                    => RINGF-D-…        (dispatch: a tree over prefixes)
//! RINGF-D-…
//!   a pod to itself                           return
//!   address                                   => RINGF-P-…        (the pods isolated alike)
//! RINGF-P-…
//!   granted                                   return
//!   anything else                             -> RINGF-DROP-…
//! RINGF-DROP-…
//!   RELATED ICMP, discovery                   return
//!   the other side is this node               return          (not in RINGF-DROP-EGRESS with --police-own-node)
//!   anything else                             logged, dropped
//! ```
//!
//! `=>` is a goto: a RETURN in a pod's chain comes back behind the gate that led there, so a packet that may leave one
//! pod is still checked on its way into another, and what both checks pass goes on to other people's rules. Nothing
//! here ever accepts a packet.

pub mod agent;
pub mod audit;
pub mod cli;
pub mod cluster;
pub mod cni;
pub mod conntrack;
pub mod diff;
pub mod droplog;
pub mod engine;
pub mod error;
pub mod kernel;
pub mod metrics;
pub mod names;
pub mod netlink;
pub mod node;
pub mod observe;
pub mod options;
pub mod plan;
pub mod render;
pub mod report;
pub mod revoke;
pub mod rules;
pub mod ruleset;
pub mod simulate;
pub mod starts;
pub mod state;
pub mod watch;

pub use error::{Error, Result};
