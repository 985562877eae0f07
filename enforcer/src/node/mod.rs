//! What a node must have, and how it is prepared: modules and sysctls; what is in the way.

mod check;
mod others;
mod prepare;
mod trial;

use std::path::Path;

use serde::Serialize;

pub use check::{check, gap, hazards};
pub use prepare::prepare;

use crate::ruleset::Family;

/// Without these, packets between pods on one bridge never meet a rule.
const BRIDGE: &str = "/proc/sys/net/bridge";
const BRIDGE_SYSCTLS: [&str; 2] = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// Enforcement may have a hole, or the node may be unusual.
    Warning,
    /// No enforcement is possible.
    Fatal,
}

/// One thing that was looked at or done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it stands.
    pub level: Level,
    /// What it is, and what to do about it.
    pub text: String,
}

fn finding(level: Level, text: impl Into<String>) -> Finding {
    Finding {
        level,
        text: text.into(),
    }
}

fn no_bridge_filter(sysctl: &str) -> Finding {
    finding(
        Level::Warning,
        format!(
            "net.bridge.{sysctl} is not there: if pods of this node share a bridge, traffic between them is not enforced; \
             load br_netfilter"
        ),
    )
}

/// The families that this kernel has.
pub fn families() -> Vec<Family> {
    let v6 = Path::new("/proc/net/if_inet6").exists();
    Family::ALL
        .into_iter()
        .filter(|family| *family == Family::V4 || v6)
        .collect()
}
