//! Other enforcers on the node, told by the names of their chains.

use std::collections::BTreeSet;

use super::{Finding, Level, finding};

/// Begins of the names of chains, and whose they are.
const KNOWN: [(&str, &str); 8] = [
    ("cali-", "Calico"),
    ("KUBE-POD-FW-", "kube-router"),
    ("KUBE-NWPLCY-", "kube-router"),
    ("CILIUM_", "Cilium"),
    ("WEAVE-NPC", "Weave Net"),
    ("ANTREA-", "Antrea"),
    ("KUBE-ROUTER-FORWARD", "kube-router"),
    ("AWS-NP-", "the AWS VPC CNI"),
];

/// Who else writes rules for NetworkPolicies here, by what iptables-save prints.
pub(super) fn enforcers<'a>(saved: impl Iterator<Item = &'a str>) -> Vec<Finding> {
    let chains = saved
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix(':'));
    let found: BTreeSet<&str> = chains
        .filter_map(|chain| KNOWN.iter().find(|(begin, _)| chain.starts_with(begin)))
        .map(|(_, name)| *name)
        .collect();
    if found.is_empty() {
        return vec![finding(Level::Good, "no other enforcer's rules")];
    }
    let warning = |name: &str| {
        format!(
            "{name} has rules on this node: where it enforces NetworkPolicies itself, two enforcers are one too many. Install \
             Ringfence without its enforcer (config/operator-only), or switch {name}'s off"
        )
    };
    found
        .into_iter()
        .map(|name| finding(Level::Warning, warning(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_enforcer_is_named_once_whatever_chains_it_has() {
        let saved = "*filter\n:FORWARD ACCEPT [0:0]\n:cali-FORWARD - [0:0]\n:cali-fw-x - [0:0]\n:KUBE-FORWARD - [0:0]\n";
        let found = enforcers([saved, ":KUBE-NWPLCY-X - [0:0]\n"].into_iter());
        let names: Vec<&str> = found
            .iter()
            .filter_map(|it| it.text.split(" has rules").next())
            .collect();
        assert_eq!(names, ["Calico", "kube-router"]);
        assert!(found.iter().all(|finding| finding.level == Level::Warning));
    }

    #[test]
    fn kube_proxy_and_kubelet_are_no_enforcers() {
        let found = enforcers([":KUBE-FORWARD - [0:0]\n:KUBE-SERVICES - [0:0]\n"].into_iter());
        assert_eq!(found.iter().map(|it| it.level).collect::<Vec<_>>(), [Level::Good]);
    }
}
