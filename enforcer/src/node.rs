//! What a node must have, and how it is prepared: modules and sysctls.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::kernel::{Tools, Variant, VariantChoice, detect};
use crate::metrics::Writes;
use crate::ruleset::Family;

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

/// Without these, packets between pods on one bridge never meet a rule.
const BRIDGE: &str = "/proc/sys/net/bridge";
const BRIDGE_SYSCTLS: [&str; 2] = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// Enforcement may have a hole, or the node may be unusual.
    Warning,
    /// No enforcement is possible.
    Fatal,
}

/// One thing that was looked at or done.
#[derive(Debug, Clone, PartialEq, Eq)]
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

fn no_bridge_filter(sysctl: &str) -> Finding {
    finding(
        Level::Warning,
        format!(
            "net.bridge.{sysctl} is not there: if pods of this node share a bridge, traffic between them is not enforced; \
             load br_netfilter"
        ),
    )
}

/// Looks at everything that enforcement needs, and changes nothing.
pub fn check() -> Vec<Finding> {
    let mut findings = match Tools::open(1, Writes::default()) {
        Ok(tools) => [vec![sets(&tools)], iptables_tools(&tools)].concat(),
        Err(error) => vec![finding(Level::Fatal, error.to_string())],
    };
    findings.extend(BRIDGE_SYSCTLS.map(bridge_sysctl));
    findings.push(ipvs(&fs::read_to_string("/proc/net/ip_vs").unwrap_or_default()));
    findings
}

/// What is wrong with the node for enforcement, apart from the tools.
pub fn hazards() -> Vec<Finding> {
    let mut findings = BRIDGE_SYSCTLS.map(bridge_sysctl).to_vec();
    findings.push(ipvs(&fs::read_to_string("/proc/net/ip_vs").unwrap_or_default()));
    findings.retain(|finding| finding.level > Level::Good);
    findings
}

fn sets(tools: &Tools) -> Finding {
    match tools.sets().sizes() {
        Ok(_) => finding(Level::Good, "ipset works"),
        Err(error) => finding(Level::Fatal, error.to_string()),
    }
}

fn iptables_tools(tools: &Tools) -> Vec<Finding> {
    let variant = match detect(tools, VariantChoice::Auto) {
        Ok(variant) => variant,
        Err(error) => return vec![finding(Level::Fatal, error.to_string())],
    };
    let works = |family: Family| match tools.save(variant, family, true) {
        Ok(_) => finding(Level::Good, format!("iptables for {family} works")),
        Err(error) => finding(Level::Fatal, error.to_string()),
    };
    let mut findings = vec![finding(
        Level::Good,
        format!("iptables variant {variant} is what this node uses"),
    )];
    findings.extend(families().into_iter().map(works));
    let other = |family: Family| {
        tools
            .save(variant.other(), family, false)
            .is_ok_and(|saved| has_rules(&saved))
    };
    if Family::ALL.into_iter().any(other) {
        let text = format!(
            "the {} variant of iptables has rules as well; both are in force",
            Variant::other(variant)
        );
        findings.push(finding(Level::Warning, text));
    }
    findings
}

fn has_rules(saved: &str) -> bool {
    saved.lines().any(|line| line.starts_with("-A "))
}

fn bridge_sysctl(sysctl: &str) -> Finding {
    match fs::read_to_string(Path::new(BRIDGE).join(sysctl)) {
        Ok(value) if value.trim() == "1" => finding(Level::Good, format!("net.bridge.{sysctl} is 1")),
        Ok(value) => finding(
            Level::Warning,
            format!(
                "net.bridge.{sysctl} is {}: traffic between pods of this node that share a bridge is NOT enforced; run \
                 `ringfence-enforcer prepare` with the rights to set it to 1",
                value.trim()
            ),
        ),
        Err(_) => no_bridge_filter(sysctl),
    }
}

/// kube-proxy's IPVS mode sends requests for Services past FORWARD.
fn ipvs(table: &str) -> Finding {
    let services = table.lines().filter(|line| {
        ["TCP", "UDP", "SCTP", "FWM"]
            .iter()
            .any(|it| line.starts_with(it))
    });
    match services.count() {
        0 => finding(Level::Good, "no IPVS services"),
        count => finding(
            Level::Warning,
            format!(
                "{count} IPVS services: kube-proxy's IPVS mode leads requests for Services past the rules, they are NOT \
                 enforced; use its iptables or nftables mode"
            ),
        ),
    }
}

/// The families that this kernel has.
pub fn families() -> Vec<Family> {
    let v6 = Path::new("/proc/net/if_inet6").exists();
    Family::ALL
        .into_iter()
        .filter(|family| *family == Family::V4 || v6)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipvs_services_are_a_hole_and_an_empty_table_is_not() {
        let header = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port\n";
        assert_eq!(ipvs(header).level, Level::Good);
        let service = format!("{header}TCP  0A600001:01BB rr\n  -> 0A000001:192B Masq 1 0 0\n");
        assert_eq!(ipvs(&service).level, Level::Warning);
    }
}
