//! What a Kubernetes `NetworkPolicy` means.
//!
//! This crate is pure: no I/O, no client, no clock. It holds a [`World`] of namespaces, nodes, pods and policies, and two
//! independent readings of it:
//!
//! ```text
//!                        ┌── evaluate(world, flow)  ─► Verdict: allowed or not, and which rule decided
//!  API objects ─► World ─┤
//!                        └── resolve(world, node)   ─► NodePolicies: per local pod and direction, who may
//!                                                      reach which ports; what an enforcer compiles from
//! ```
//!
//! [`evaluate`] is naive on purpose, so that it is obviously right; [`resolve`] is what runs in production. They share
//! label, port and address matching and nothing else, and a property test holds them together over random worlds.
//!
//! The rules come from the upstream type documentation of `networking.k8s.io/v1` `NetworkPolicy`. Where that text leaves
//! something open, the choice made here is documented at the type that makes it.

mod applied;
mod convert;
mod coverage;
mod digest;
mod display;
mod evaluate;
mod explain;
mod labels;
mod model;
mod net;
mod resolve;
mod service;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod world;

pub use applied::{Version, applied_digest};
pub use convert::InvalidPolicy;
pub use coverage::{
    Coverage, DirectionCoverage, Opening, Openness, PodCoverage, Reopening, coverage, isolating,
};
pub use digest::digest;
pub use evaluate::{DirectionVerdict, Flow, IndexedWorld, Matched, Verdict, evaluate};
pub use explain::{Explanation, Labelled, Miss, NearMiss, Reason, Remedy, Side, Unmet, explain};
pub use labels::{InvalidSelector, Labels, Operator, Requirement, Selector};
pub use model::{
    ContainerPort, Direction, IpBlock, Namespace, Node, ObjectKey, Peer, Pod, Policy, PortMatch, PortSpec,
    Protocol, Rule,
};
pub use net::canonical_networks;
pub use resolve::incremental::{
    Change, Changes, Compiled, CompiledGrant, CompiledIsolation, CompiledPod, Event, GroupChange, Resolver,
};
pub use resolve::{Grant, Isolation, LocalPod, NodePolicies, PeerSet, Peers, PortRange, Ports, resolve};
pub use service::{
    BackendVerdict, Door, Endpoint, EndpointPort, EndpointSlice, Nowhere, Service, ServiceCall, ServiceKind,
    ServicePort, ServiceVerdict, TargetPort, TrafficPolicy, evaluate_service,
};
pub use world::World;
