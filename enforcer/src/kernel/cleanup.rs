//! Removes everything of ours from a node, and nothing else.

use super::{Tools, Variant};
use crate::error::{Error, Result};
use crate::names::{self, SetName};
use crate::observe;
use crate::ruleset::Family;
use crate::state::SetChange;

/// How often a clean-up is tried while others hold the lock.
const ATTEMPTS: usize = 5;

/// Removes our jump, chains and sets, in both variants and families. Returns what was removed, in words; nothing when
/// there was nothing.
///
/// # Errors
/// A tool failed, or something is left: what, and why it cannot go.
pub fn cleanup(tools: &Tools) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for variant in Variant::ALL {
        match remove_rules(tools, variant, &Family::ALL) {
            // A variant that is not installed holds nothing that could be seen or removed with it.
            Err(Error::ToolMissing { tool, .. }) => {
                tracing::info!(%tool, "not installed, nothing to clean up with it");
            }
            result => removed.extend(result?),
        }
    }
    removed.extend(remove_sets(tools)?);
    let left = remaining(tools)?;
    if left.is_empty() {
        Ok(removed)
    } else {
        Err(Error::Remains(left.join(", ")))
    }
}

/// Removes our rules and chains from filter tables of one variant. Returns what was removed, in words.
///
/// # Errors
/// A tool failed.
pub fn remove_rules(tools: &Tools, variant: Variant, families: &[Family]) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for family in families {
        for attempt in 1.. {
            match remove_family(tools, variant, *family) {
                Err(error @ Error::LockHeld { .. }) if attempt < ATTEMPTS => tracing::warn!(%error, attempt),
                result => {
                    removed.extend(result?);
                    break;
                }
            }
        }
    }
    Ok(removed)
}

fn remove_family(tools: &Tools, variant: Variant, family: Family) -> Result<Vec<String>> {
    let saved = tools.save(variant, family, false)?;
    let Some(script) = removal(&saved) else {
        return Ok(Vec::new());
    };
    tools.restore_chains(variant, family, &script)?;
    let chains = observe::tables(observe::filter_table(&saved)).chains.len();
    Ok(vec![format!("{chains} chains of {family} ({variant})")])
}

/// The script that removes every chain of ours and every rule that leads to one. `None` is nothing to remove.
fn removal(saved: &str) -> Option<String> {
    let filter = observe::filter_table(saved);
    let chains: Vec<_> = observe::tables(filter).chains.into_keys().collect();
    let references = observe::references(filter);
    if chains.is_empty() && references.is_empty() {
        return None;
    }
    let empty = chains.iter().map(|chain| format!(":{chain} - [0:0]\n"));
    let ways_in = references
        .iter()
        .map(|(chain, rule)| format!("-D {chain} {rule}\n"));
    let delete = chains.iter().map(|chain| format!("-X {chain}\n"));
    let lines: String = empty.chain(ways_in).chain(delete).collect();
    Some(format!("*filter\n{lines}COMMIT\n"))
}

fn remove_sets(tools: &Tools) -> Result<Vec<String>> {
    let ours = set_names(tools)?;
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    let count = ours.len();
    let changes: Vec<_> = ours.into_iter().map(SetChange::Destroy).collect();
    tools.change_sets(&changes)?;
    Ok(vec![format!("{count} sets")])
}

fn set_names(tools: &Tools) -> Result<Vec<SetName>> {
    Ok(tools.sets().sizes()?.into_keys().collect())
}

/// Whatever still carries our name, in any table.
fn remaining(tools: &Tools) -> Result<Vec<String>> {
    let mut left: Vec<_> = set_names(tools)?
        .iter()
        .map(|name| format!("set {name}"))
        .collect();
    for variant in Variant::ALL {
        for family in Family::ALL {
            let saved = match tools.save(variant, family, false) {
                Err(Error::ToolMissing { .. }) => continue,
                saved => saved?,
            };
            let ours = saved.lines().filter(|line| {
                line.starts_with(&format!(":{}", names::PREFIX))
                    || line.contains(&format!(" {}", names::PREFIX))
            });
            left.extend(ours.map(|line| format!("{family} ({variant}): {line}")));
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_our_chains_and_the_ways_into_them_are_removed() {
        let saved = "*nat\n:RINGF-NOT - [0:0]\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n:RINGF-FORWARD - [0:0]\n\
                     :KUBE-FORWARD - [0:0]\n-A FORWARD -j KUBE-FORWARD\n\
                     -A FORWARD -m comment --comment ringfence -j RINGF-FORWARD\n-A RINGF-FORWARD -j DROP\nCOMMIT\n";
        assert_eq!(
            removal(saved).unwrap(),
            "*filter\n:RINGF-FORWARD - [0:0]\n-D FORWARD -m comment --comment ringfence -j RINGF-FORWARD\n\
             -X RINGF-FORWARD\nCOMMIT\n"
        );
    }

    #[test]
    fn where_nothing_is_ours_nothing_is_written() {
        assert_eq!(
            removal("*filter\n:FORWARD ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\nCOMMIT\n"),
            None
        );
    }
}
