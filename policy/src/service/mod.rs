//! Services: where a packet to one goes, and what policies say of it there.
//!
//! Policies know no Services. kube-proxy rewrites a packet's destination to a backend before policies see it, and sometimes
//! its source after they have seen it on one node and before they do on the next. So "may this pod call that Service" is
//! answered backend by backend, for the packet as each side sees it:
//!
//! ```text
//!  caller ─► [caller's node: egress is judged] ─► [node that was dialled: DNAT, maybe SNAT] ─► [backend's node: ingress]
//! ```

mod call;
mod convert;
mod model;

pub use call::{BackendVerdict, Door, Nowhere, ServiceCall, ServiceVerdict, evaluate_service};
pub use model::{
    Endpoint, EndpointPort, EndpointSlice, Service, ServiceKind, ServicePort, TargetPort, TrafficPolicy,
};
