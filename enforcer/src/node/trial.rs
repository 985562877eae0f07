//! Tries every kind of rule and set that enforcement uses, in a network namespace made for it.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::{Finding, Level, finding};
use crate::error::Error;
use crate::kernel::{Kernel, LocalKernel, Tools, Variant};
use crate::metrics::Writes;
use crate::names::{self, SetName};
use crate::rules::{self, Rule, samples};
use crate::ruleset::{Family, Hook, SetKind};
use crate::state::{ChainChange, JumpChange, Phase, SetChange};

/// Tries them for these families.
pub(super) fn all(variant: Variant, families: &[Family]) -> Vec<Finding> {
    families
        .iter()
        .flat_map(|family| family_of(variant, *family))
        .collect()
}

fn family_of(variant: Variant, family: Family) -> Vec<Finding> {
    let tried = thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            let text = format!(
                "rules for {family} were not tried: a network namespace to try them in cannot be made ({errno}); run check as \
                 root on the node, or in a privileged container"
            );
            return vec![finding(Level::Warning, text)];
        }
        match attempt(variant, family) {
            Ok(()) => vec![finding(
                Level::Good,
                format!("every kind of set and rule works for {family} (iptables-{variant})"),
            )],
            Err(error) => vec![finding(Level::Fatal, remedy(family, &error))],
        }
    });
    tried.join().unwrap_or_else(|_| {
        let text = format!("rules for {family} were not tried: the trial ended early");
        vec![finding(Level::Fatal, text)]
    })
}

fn remedy(family: Family, error: &Error) -> String {
    match error {
        Error::ToolFailed { .. } => format!(
            "{error}: the kernel lacks a match or target that the rules for {family} use; `ringfence-enforcer prepare` loads the \
             modules"
        ),
        error => error.to_string(),
    }
}

fn attempt(variant: Variant, family: Family) -> Result<(), Error> {
    let mut kernel = LocalKernel::new(Tools::open(10, Writes::default())?, variant, &[family]);
    let [sets, chains] = everything(family);
    kernel.write(&sets)?;
    kernel.write(&chains)
}

/// A set of every kind, and a rule of every kind and form.
fn everything(family: Family) -> [Phase; 2] {
    let rules = samples(family);
    let sets: BTreeSet<&SetName> = rules.iter().filter_map(Rule::set).collect();
    let with_port = |name: &SetName| {
        let mut matches = rules.iter().filter_map(|rule| match rule {
            Rule::Allow {
                peers: Some(peers), ..
            } if peers.set == *name => Some(peers.with_port),
            _ => None,
        });
        matches.any(|with_port| with_port)
    };
    let create = |(number, name): (usize, &&SetName)| SetChange::Create {
        name: (*name).clone(),
        kind: match (with_port(name), number % 2) {
            (true, _) => SetKind::NetPort,
            (false, 0) => SetKind::Net,
            (false, _) => SetKind::Address,
        },
        family,
        capacity: 1024,
    };
    let targets = rules.iter().filter_map(Rule::target);
    let mut replace: BTreeMap<String, Vec<String>> =
        targets.map(|chain| (chain.to_owned(), Vec::new())).collect();
    let lines = rules.iter().map(ToString::to_string);
    replace.insert(names::FORWARD.to_owned(), lines.collect());
    let jump = JumpChange {
        insert: rules::entrance().iter().map(ToString::to_string).collect(),
        ..JumpChange::default()
    };
    let change = ChainChange {
        replace,
        jumps: Hook::ALL.map(|hook| (hook, jump.clone())).into(),
        ..ChainChange::default()
    };
    [
        Phase::Sets(sets.iter().enumerate().map(create).collect()),
        Phase::Chains(family, change),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_set_is_tried() {
        for family in Family::ALL {
            let [Phase::Sets(changes), _] = everything(family) else {
                panic!("sets first")
            };
            let kinds: BTreeSet<SetKind> = changes
                .iter()
                .filter_map(|change| match change {
                    SetChange::Create { kind, .. } => Some(*kind),
                    _ => None,
                })
                .collect();
            assert_eq!(kinds, SetKind::ALL.into());
        }
    }
}
