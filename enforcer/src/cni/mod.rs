//! Pods start behind their rules: the chained CNI plugin, and how the enforcer serves it.
//!
//! ```text
//!  container runtime ──ADD──► bridge, … ──► ringfence-cni ──one JSON line──► socket of the enforcer
//!                                                 │                               │ the cluster knows the address
//!                                                 │                               ▼
//!  first instruction of the pod ◄── success ◄─────┴────── answer ◄───── the kernel holds the pod's rules
//! ```
//!
//! The API server tells a pod's address only after its containers run, so an enforcer that waits for it leaves every pod
//! open for a moment. The plugin hands the address over as soon as it is given out. It never asks the API server, and the
//! pod's object is there before its sandbox, so nothing waits for what waits for it.
//!
//! [`protocol`], [`conflist`], [`message`] and [`plugin`] are pure. [`client`] is the plugin's side of the socket, [`server`]
//! the enforcer's; [`install`] writes to the node's disk; [`service`] is what the agent has of all this.

pub mod client;
pub mod conflist;
pub mod install;
pub mod message;
pub mod plugin;
pub mod protocol;
pub mod server;
pub mod service;

/// The plugin: its file in the folder of CNI plugins, and its `type` in a configuration.
pub const PLUGIN: &str = "ringfence-cni";
/// The plugin in the enforcer's image.
pub const SOURCE: &str = "/ringfence-cni";
/// Where the enforcer listens unless it is told otherwise.
pub const SOCKET: &str = "/run/ringfence/cni.sock";
/// Where container runtimes look for network configurations unless they are told otherwise.
pub const CONF_DIR: &str = "/etc/cni/net.d";
/// Where container runtimes look for plugins unless they are told otherwise.
pub const BIN_DIR: &str = "/opt/cni/bin";
/// How long a pod waits for its rules unless the enforcer is told otherwise, in seconds.
pub const PATIENCE: u64 = 5;
