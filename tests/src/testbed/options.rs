//! What a cluster can be asked to be.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Which address families pods, Services and nodes get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Both, IPv4 first.
    Dual,
}

impl IpFamily {
    /// Whether IPv4 addresses are handed out.
    pub fn has_v4(self) -> bool {
        self != Self::Ipv6
    }

    /// Whether IPv6 addresses are handed out.
    pub fn has_v6(self) -> bool {
        self != Self::Ipv4
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Dual => "dual",
        })
    }
}

impl FromStr for IpFamily {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "ipv4" => Ok(Self::Ipv4),
            "ipv6" => Ok(Self::Ipv6),
            "dual" => Ok(Self::Dual),
            _ => bail!("IP family {text:?} is unknown: use ipv4, ipv6 or dual"),
        }
    }
}

/// How Services reach their pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// kube-proxy with iptables.
    Iptables,
    /// kube-proxy with nftables.
    Nftables,
    /// No kube-proxy at all: Service addresses lead nowhere.
    None,
}

impl fmt::Display for ProxyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::None => "none",
        })
    }
}

impl FromStr for ProxyMode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "iptables" => Ok(Self::Iptables),
            "nftables" => Ok(Self::Nftables),
            "none" => Ok(Self::None),
            _ => bail!("proxy mode {text:?} is unknown: use iptables, nftables or none"),
        }
    }
}

/// The kernel interface behind the nodes' `iptables`: what kube-proxy, kubelet and the CNI plugins use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Iptables {
    /// iptables on top of nftables.
    #[default]
    Nft,
    /// The old one.
    Legacy,
}

impl fmt::Display for Iptables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

impl FromStr for Iptables {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "nft" => Ok(Self::Nft),
            "legacy" => Ok(Self::Legacy),
            _ => bail!("iptables variant {text:?} is unknown: use nft or legacy"),
        }
    }
}

/// A cluster's name. It goes into names of network namespaces, cgroups and folders, so it is short and plain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

/// Longest cluster name. Unix socket paths below the state folder must stay under 108 bytes.
pub(crate) const MAX_NAME: usize = 20;

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ClusterName {
    fn default() -> Self {
        Self("dev".to_owned())
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(plain) && !text.starts_with('-'),
            "cluster name {text:?} is not usable: 1 to {MAX_NAME} characters of a-z, 0-9 and '-', not starting with '-'"
        );
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ClusterName {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

/// Most nodes one machine is asked to hold. Also what the address plan has room for.
pub const MAX_NODES: u8 = 50;

/// What [`Cluster::up`](super::Cluster::up) is to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterOptions {
    /// Name of the cluster; clusters of different names run side by side.
    pub name: ClusterName,
    /// Number of nodes, 1 to [`MAX_NODES`]. The control plane is not one of them.
    pub nodes: u8,
    /// Address families.
    pub ip_family: IpFamily,
    /// How Services reach their pods.
    pub proxy_mode: ProxyMode,
    /// Which `iptables` the nodes have.
    #[serde(default)]
    pub iptables: Iptables,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            name: ClusterName::default(),
            nodes: 2,
            ip_family: IpFamily::Ipv4,
            proxy_mode: ProxyMode::Iptables,
            iptables: Iptables::Nft,
        }
    }
}

impl ClusterOptions {
    /// The defaults under another name.
    ///
    /// # Errors
    /// When `name` is no usable [`ClusterName`].
    pub fn named(name: &str) -> Result<Self> {
        Ok(Self {
            name: name.parse()?,
            ..Self::default()
        })
    }

    /// Says whether the numbers are within bounds.
    ///
    /// # Errors
    /// When there are no nodes, or more than [`MAX_NODES`].
    pub fn validate(&self) -> Result<()> {
        ensure!(
            (1..=MAX_NODES).contains(&self.nodes),
            "cluster {}: {} nodes asked for, 1 to {MAX_NODES} are possible",
            self.name,
            self.nodes
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_and_value_agree() {
        for family in [IpFamily::Ipv4, IpFamily::Ipv6, IpFamily::Dual] {
            assert_eq!(family.to_string().parse::<IpFamily>().unwrap(), family);
        }
        for variant in [Iptables::Nft, Iptables::Legacy] {
            assert_eq!(variant.to_string().parse::<Iptables>().unwrap(), variant);
        }
        for mode in [ProxyMode::Iptables, ProxyMode::Nftables, ProxyMode::None] {
            assert_eq!(mode.to_string().parse::<ProxyMode>().unwrap(), mode);
        }
    }

    #[test]
    fn unknown_text_names_what_is_possible() {
        assert!(
            "ipv5"
                .parse::<IpFamily>()
                .unwrap_err()
                .to_string()
                .contains("ipv4, ipv6 or dual")
        );
        assert!(
            "ipvs"
                .parse::<ProxyMode>()
                .unwrap_err()
                .to_string()
                .contains("iptables, nftables or none")
        );
    }

    #[test]
    fn names_that_would_break_a_path_are_refused() {
        for bad in ["", "-a", "a/b", "..", "A", "a b", "a_b", "abcdefghijklmnopqrstu"] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad:?} was taken");
        }
        for good in ["dev", "ci-1", "a", "abcdefghijklmnopqrst"] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn node_counts_are_bounded() {
        for (nodes, fine) in [(0, false), (1, true), (MAX_NODES, true), (MAX_NODES + 1, false)] {
            let options = ClusterOptions {
                nodes,
                ..ClusterOptions::default()
            };
            assert_eq!(options.validate().is_ok(), fine, "{nodes} nodes");
        }
    }

    #[test]
    fn options_survive_the_state_file() {
        let options = ClusterOptions {
            name: "x-1".parse().unwrap(),
            nodes: 3,
            ip_family: IpFamily::Dual,
            proxy_mode: ProxyMode::None,
            iptables: Iptables::Legacy,
        };
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<ClusterOptions>(&text).unwrap(), options);
    }
}
