//! Who should reach whom.

use super::{API, App, DB, PROMETHEUS, Target, WEB};

/// Before Ringfence closes anything everyone reaches everything.
pub fn before(_client: &App, _target: &Target) -> bool {
    true
}

/// What `examples/three-tier/zero-trust.yaml` allows, and nothing else.
pub fn after(client: &App, target: &Target) -> bool {
    match *target {
        Target::DnsUdp | Target::DnsTcp => true,
        Target::Pods(API, 8080) | Target::Service(API, 80) => *client == WEB,
        Target::Pods(API, 9090) => *client == PROMETHEUS,
        Target::Pods(DB, 5432) | Target::Service(DB, 5432) => *client == API,
        Target::Pods(..) | Target::Service(..) => false,
    }
}
