//! Looks at everything that enforcement needs, and at what is in its way.

use std::fs;
use std::path::Path;

use super::{BRIDGE, BRIDGE_SYSCTLS, Finding, Level, families, finding, no_bridge_filter, others, trial};
use crate::error::Error;
use crate::kernel::{Tools, Variant, VariantChoice, detect};
use crate::metrics::Writes;
use crate::names;
use crate::ruleset::Family;

/// Looks at everything that enforcement needs, and changes nothing on the node: rules and sets are tried in a network
/// namespace that exists for nothing else.
pub fn check() -> Vec<Finding> {
    let mut findings = match Tools::open(1, Writes::default()) {
        Ok(tools) => with_tools(&tools),
        Err(error) => vec![finding(Level::Fatal, error.to_string())],
    };
    findings.extend(hazards_and_goods());
    findings
}

fn with_tools(tools: &Tools) -> Vec<Finding> {
    let variant = match detect(tools, VariantChoice::Auto) {
        Ok(variant) => variant,
        Err(error) => return vec![finding(Level::Fatal, error.to_string())],
    };
    let text = format!("iptables variant {variant} is what this node uses");
    let mut findings = vec![finding(Level::Good, text)];
    findings.extend(trial::all(variant, &families()));
    let mut saved = Vec::new();
    for variant in Variant::ALL {
        let (text, unreadable) = saved_of(tools, variant);
        saved.push((variant, text));
        findings.extend(unreadable);
    }
    findings.extend(other_variant(&saved, variant));
    findings.extend(others::enforcers(saved.iter().map(|(_, text)| text.as_str())));
    findings
}

/// What all tables of a variant hold, both families; and those that nobody can say of what they hold.
fn saved_of(tools: &Tools, variant: Variant) -> (String, Vec<Finding>) {
    let (mut text, mut unreadable) = (String::new(), Vec::new());
    for family in Family::ALL {
        match tools.save(variant, family, false) {
            Ok(saved) => text += &saved,
            Err(error @ Error::TableUnreadable { .. }) => {
                unreadable.push(finding(Level::Fatal, error.to_string()));
            }
            // What is not installed holds nothing that could be seen with it.
            Err(_) => {}
        }
    }
    (text, unreadable)
}

fn other_variant(saved: &[(Variant, String)], ours: Variant) -> Option<Finding> {
    let (variant, text) = saved.iter().find(|(variant, _)| *variant != ours)?;
    if text.contains(names::PREFIX) {
        let text = format!(
            "rules of Ringfence are left in the {variant} variant of iptables and are in force: `ringfence-enforcer run` removes \
             them when it starts, `ringfence-enforcer cleanup` at once"
        );
        return Some(finding(Level::Warning, text));
    }
    let rules = text.lines().any(|line| line.starts_with("-A "));
    let text = format!("the {variant} variant of iptables has rules as well; both are in force");
    rules.then(|| finding(Level::Warning, text))
}

/// What is wrong with the node for enforcement, apart from the tools.
pub fn hazards() -> Vec<Finding> {
    let mut findings = hazards_and_goods();
    findings.retain(|finding| finding.level > Level::Good);
    findings
}

/// Traffic that passes the rules by, now; in words. `None` where there is none.
pub fn gap() -> Option<String> {
    let sysctls = BRIDGE_SYSCTLS.map(bridge_sysctl).into_iter();
    // Without a bridge nothing is bridged past the rules.
    let bridged = sysctls.filter(|it| it.level > Level::Good && has_bridge());
    let ipvs = ipvs(&fs::read_to_string("/proc/net/ip_vs").unwrap_or_default());
    let mut gaps = bridged.chain([ipvs]).filter(|it| it.level > Level::Good);
    gaps.next().map(|it| it.text)
}

fn has_bridge() -> bool {
    let interfaces = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut bridges = interfaces.filter(|interface| interface.path().join("bridge").is_dir());
    bridges.next().is_some()
}

fn hazards_and_goods() -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut findings = BRIDGE_SYSCTLS.map(bridge_sysctl).to_vec();
    findings.push(ipvs(&read("/proc/net/ip_vs")));
    findings.push(forwarding(&read("/proc/sys/net/ipv4/ip_forward")));
    let count = read("/proc/sys/net/netfilter/nf_conntrack_count");
    let most = read("/proc/sys/net/netfilter/nf_conntrack_max");
    findings.push(connections(&count, &most));
    findings
}

fn forwarding(value: &str) -> Finding {
    if value.trim() == "1" {
        return finding(Level::Good, "net.ipv4.ip_forward is 1");
    }
    finding(
        Level::Warning,
        "net.ipv4.ip_forward is not 1: this node passes no packets on, its pods reach nobody; `sysctl -w net.ipv4.ip_forward=1`",
    )
}

fn connections(count: &str, most: &str) -> Finding {
    let numbers = count
        .trim()
        .parse::<u64>()
        .ok()
        .zip(most.trim().parse::<u64>().ok());
    match numbers {
        Some((count, most)) if count * 10 > most * 9 => finding(
            Level::Warning,
            format!(
                "{count} of {most} connections are tracked: when the table is full the kernel drops new ones; raise \
                 net.netfilter.nf_conntrack_max"
            ),
        ),
        Some((count, most)) => finding(Level::Good, format!("{count} of {most} connections are tracked")),
        None => finding(
            Level::Warning,
            "the kernel does not say how many connections it tracks: load nf_conntrack",
        ),
    }
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

    #[test]
    fn a_table_of_connections_that_is_almost_full_is_a_hazard() {
        assert_eq!(connections("100\n", "262144\n").level, Level::Good);
        assert_eq!(connections("240000\n", "262144\n").level, Level::Warning);
        assert_eq!(connections("", "").level, Level::Warning);
    }

    #[test]
    fn rules_of_ours_in_the_other_variant_are_told_with_the_remedy() {
        let saved = |text: &str| [(Variant::Nft, String::new()), (Variant::Legacy, text.to_owned())];
        assert_eq!(other_variant(&saved("*filter\nCOMMIT\n"), Variant::Nft), None);
        let ours = other_variant(&saved("-A FORWARD -j RINGF-FORWARD\n"), Variant::Nft);
        assert!(ours.is_some_and(|it| it.text.contains("cleanup") && it.text.contains("legacy")));
        let docker = other_variant(&saved("-A FORWARD -j DOCKER\n"), Variant::Nft);
        assert!(docker.is_some_and(|it| it.level == Level::Warning));
    }
}
