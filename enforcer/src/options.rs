//! What shapes the rules, apart from the policies.

use std::time::Duration;

/// The connection mark of revoked flows: a bit that kube-proxy (0x4000, 0x8000 of the packet mark), the portmap plugin
/// (0x2000), the AWS CNI (0x80) and Tailscale (0xff0000) leave alone.
pub const DEFAULT_REVOKED_MARK: u32 = 0x2000_0000;

/// What shapes the rules, apart from the policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The one bit of the connection mark that says "revoked".
    pub revoked_mark: u32,
    /// How long packets of known connections are compared with that mark after a look that has found revoked ones, until one
    /// finds none: the rule that compares them comes and goes by a write, so not with each of many changes. `None` is always.
    pub guard_for: Option<Duration>,
    /// How to log what is dropped; `None` is not at all.
    pub log: Option<LogOptions>,
    /// The most entries that one isolation's peers and ports are multiplied out to, per family. What exceeds it becomes
    /// one rule per pair of peers and ports.
    pub flat_entries: usize,
    /// The most local addresses in one chain of the dispatch tree.
    pub leaf_size: usize,
    /// The most rules about ranges of ports of a protocol that a packet is compared with one after the other.
    pub port_leaf: usize,
    /// Whether policies act on what pods send to this node itself as well. What the node sends to its pods always passes.
    pub police_own_node: bool,
    /// Whether packets from and to addresses of the node's own pod ranges are dropped as long as no pod is known to have
    /// them.
    pub gate_unknown_pods: bool,
}

/// How to log what is dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogOptions {
    /// The netlink group that a reader of the log joins.
    pub group: u16,
    /// Messages a minute for each combination of source, destination and port.
    pub per_minute: u32,
    /// Messages before that rate counts.
    pub burst: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            revoked_mark: DEFAULT_REVOKED_MARK,
            guard_for: Some(Duration::from_secs(60)),
            log: Some(LogOptions::default()),
            flat_entries: 20_000,
            leaf_size: 4,
            port_leaf: 4,
            police_own_node: false,
            gate_unknown_pods: false,
        }
    }
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            group: 100,
            per_minute: 10,
            burst: 5,
        }
    }
}
