//! The two kernels of iptables: nft and legacy. Rules written to the one that nobody else uses would work, but stand
//! outside everything that the node's other programs and people look at.

use std::fmt;

use super::Tools;
use crate::error::{Error, Result};
use crate::names;
use crate::ruleset::Family;

/// One of the two iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Variant {
    /// iptables on top of nftables.
    Nft,
    /// The old one.
    Legacy,
}

impl Variant {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

/// Which iptables to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum VariantChoice {
    /// The one that the node's other programs use.
    Auto,
    /// nft.
    Nft,
    /// legacy.
    Legacy,
}

/// The variant to use.
///
/// # Errors
/// Neither variant's tools can be started.
pub fn detect(tools: &Tools, choice: VariantChoice) -> Result<Variant> {
    match choice {
        VariantChoice::Nft => Ok(Variant::Nft),
        VariantChoice::Legacy => Ok(Variant::Legacy),
        VariantChoice::Auto => {
            let nft = saved(tools, Variant::Nft);
            let legacy = saved(tools, Variant::Legacy);
            match (nft, legacy) {
                (Ok(nft), Ok(legacy)) => Ok(choose(&nft, &legacy)),
                (Ok(_), Err(Error::ToolMissing { .. })) => Ok(Variant::Nft),
                (Err(Error::ToolMissing { .. }), Ok(_)) => Ok(Variant::Legacy),
                (Err(error), _) | (_, Err(error)) => Err(error),
            }
        }
    }
}

/// What all tables that exist hold, both families.
fn saved(tools: &Tools, variant: Variant) -> Result<String> {
    // Without a table's name nothing is loaded or made that is not there.
    let families = Family::ALL.iter().map(|family| {
        match tools.save(variant, *family, false) {
            // Whose rules those are does not matter here, and whoever uses the table says it.
            Err(Error::TableUnreadable { .. }) => Ok(String::new()),
            saved => saved,
        }
    });
    families.collect()
}

/// The variant that kubelet and kube-proxy use; without either, the one with more rules; without any, nft.
fn choose(nft: &str, legacy: &str) -> Variant {
    let kubernetes = |saved: &str| saved.lines().any(|line| line.starts_with(":KUBE-"));
    let foreign = |saved: &str| {
        saved
            .lines()
            .filter(|line| line.starts_with("-A ") && !line.contains(names::PREFIX))
            .count()
    };
    match (kubernetes(nft), kubernetes(legacy)) {
        (true, false) => Variant::Nft,
        (false, true) => Variant::Legacy,
        _ if foreign(legacy) > foreign(nft) => Variant::Legacy,
        _ => Variant::Nft,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variant_of_kubelet_and_kube_proxy_is_chosen() {
        let hint = ":KUBE-IPTABLES-HINT - [0:0]\n";
        let docker = "-A FORWARD -j DOCKER\n-A FORWARD -j DOCKER-USER\n";
        assert_eq!(choose("", hint), Variant::Legacy);
        assert_eq!(choose(hint, docker), Variant::Nft);
        assert_eq!(choose("", docker), Variant::Legacy);
        assert_eq!(choose("", ""), Variant::Nft);
    }

    #[test]
    fn our_own_leftovers_do_not_choose_a_variant() {
        assert_eq!(
            choose("", "-A FORWARD -m comment --comment ringfence -j RINGF-FORWARD\n"),
            Variant::Nft
        );
    }
}
