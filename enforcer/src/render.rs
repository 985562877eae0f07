//! The input of `iptables-restore --noflush`, and changes of sets as `ipset restore` would read them: for logs.

use std::fmt::Write as _;

use crate::rules::text;
use crate::ruleset::Element;
use crate::state::{ChainChange, SetChange};

/// These changes of sets, line by line.
pub fn sets(changes: &[SetChange]) -> String {
    let mut script = String::new();
    for change in changes {
        match change {
            SetChange::Create {
                name,
                kind,
                family,
                capacity,
            } => line(
                &mut script,
                format_args!(
                    "create {name} {} family {} maxelem {capacity}",
                    kind.ipset(),
                    family.ipset()
                ),
            ),
            SetChange::Add(name, elements) => {
                elements
                    .iter()
                    .for_each(|element| line(&mut script, format_args!("add {name} {}", shown(element))));
            }
            SetChange::Remove(name, elements) => {
                elements
                    .iter()
                    .for_each(|element| line(&mut script, format_args!("del {name} {}", shown(element))));
            }
            SetChange::Destroy(name) => line(&mut script, format_args!("destroy {name}")),
        }
    }
    script
}

/// The lines that make this change of a filter table: everything named in it, and nothing else.
pub fn chains(change: &ChainChange) -> String {
    let mut script = String::from("*filter\n");
    // Naming a chain empties it, so that what it leads to can go.
    for chain in change.replace.keys().chain(&change.delete) {
        line(&mut script, format_args!(":{chain} - [0:0]"));
    }
    for (hook, jump) in &change.jumps {
        for rule in &jump.remove {
            line(&mut script, format_args!("-D {} {rule}", hook.chain()));
        }
    }
    for (chain, rule) in &change.strays {
        line(&mut script, format_args!("-D {chain} {rule}"));
    }
    for (chain, rules) in &change.replace {
        rules
            .iter()
            .for_each(|rule| line(&mut script, format_args!("-A {chain} {rule}")));
    }
    for (hook, jump) in &change.jumps {
        for (place, rule) in (1..).zip(&jump.insert) {
            line(&mut script, format_args!("-I {} {place} {rule}", hook.chain()));
        }
    }
    for chain in &change.delete {
        line(&mut script, format_args!("-X {chain}"));
    }
    script.push_str("COMMIT\n");
    script
}

/// An element as ipset reads and prints it.
pub fn shown(element: &Element) -> String {
    let net = element.net;
    let address = if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    };
    match element.port {
        None => address,
        Some((protocol, port)) => format!("{address},{}:{port}", text::protocol(protocol)),
    }
}

fn line(script: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{text}");
}
