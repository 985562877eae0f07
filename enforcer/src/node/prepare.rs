//! Loads modules and sets sysctls.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{BRIDGE, BRIDGE_SYSCTLS, Finding, Level, finding, no_bridge_filter};

/// Modules that the rules use. Where one is built in, or loaded on demand, there is nothing to load.
const MODULES: [&str; 15] = [
    "br_netfilter",
    "ip_set",
    "ip_set_hash_ip",
    "ip_set_hash_net",
    "ip_set_hash_netport",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nfnetlink_log",
    "xt_NFLOG",
    "xt_comment",
    "xt_connmark",
    "xt_conntrack",
    "xt_hashlimit",
    "xt_multiport",
    "xt_set",
];

/// Loads modules and sets sysctls. Needs the rights to do so; the enforcer itself does not.
pub fn prepare() -> Vec<Finding> {
    let modules = MODULES.into_iter().map(load);
    modules.chain(BRIDGE_SYSCTLS.into_iter().map(set)).collect()
}

fn load(module: &str) -> Finding {
    if Path::new("/sys/module").join(module).exists() {
        return finding(Level::Good, format!("module {module} is there"));
    }
    match Command::new("modprobe").arg(module).output() {
        Ok(output) if output.status.success() => finding(Level::Good, format!("module {module} loaded")),
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            finding(
                Level::Warning,
                format!("module {module} not loaded; fine if it is built in ({why})"),
            )
        }
        Err(error) => finding(
            Level::Warning,
            format!("module {module} not loaded: modprobe: {error}"),
        ),
    }
}

fn set(sysctl: &str) -> Finding {
    let path = Path::new(BRIDGE).join(sysctl);
    match fs::read_to_string(&path) {
        Ok(value) if value.trim() == "1" => finding(Level::Good, format!("net.bridge.{sysctl} is 1")),
        Ok(value) => match fs::write(&path, "1") {
            Ok(()) => finding(
                Level::Good,
                format!("net.bridge.{sysctl} set from {} to 1", value.trim()),
            ),
            Err(error) => finding(
                Level::Fatal,
                format!("net.bridge.{sysctl} cannot be set: {error}"),
            ),
        },
        Err(_) => no_bridge_filter(sysctl),
    }
}
