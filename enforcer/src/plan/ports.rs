//! The tree that finds what is granted at a port: a packet is compared with a few rules, whatever the number of ranges.
//!
//! ```text
//!  ranges of a protocol ─► cut in halves where they begin and end ─► one chain for each right half, the left one goes on
//! ```
//!
//! It is a segment tree: a range is listed once for each part of the tree that it covers whole, and there are at most two
//! such parts on each level. So no ranges, however they overlap, make more of it than their number times its depth, and
//! its depth is the logarithm of their number.
//!
//! A packet may jump a limited number of times ([`super::JUMPS`]), so where they are so many that halves would lead too
//! deep, the left part is larger than the right one: it costs a packet a comparison more, and no jump.
//!
//! Where a packet ends up is a matter of speed alone: each grant says its ports by itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::rules::PORT_SLOTS;

/// First and last port, both included.
pub(super) type Span = (u16, u16);
/// The name of a group of peers; `None` is anyone.
pub(super) type Group<'a> = Option<&'a str>;

/// Ports that are granted to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece<'a> {
    pub(super) span: Span,
    pub(super) group: Group<'a>,
}

/// A chain of the tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain<'a> {
    /// The ports that lead to it.
    pub(super) span: Span,
    pub(super) steps: Vec<Step<'a>>,
}

/// What stands in a chain, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// The span is granted to all of these: at least two.
    Shared(Span, Vec<Group<'a>>),
    /// These spans are granted to the group, as many as one rule can list.
    Own(Vec<Span>, Group<'a>),
    /// These ports go on in the chain of the same span.
    Branch(Span),
}

/// The chains for these pieces, the first of which is the root; none where there are so few that they are better compared
/// one after the other.
///
/// No more than `depth` of the chains lead from one to the next behind the root.
pub(super) fn tree<'a>(pieces: &BTreeSet<Piece<'a>>, leaf: usize, depth: usize) -> Vec<Chain<'a>> {
    let pieces: Vec<Piece<'a>> = pieces.iter().copied().collect();
    let first = pieces.iter().map(|piece| piece.span.0).min();
    let last = pieces.iter().map(|piece| piece.span.1).max();
    let Some(span) = first.zip(last).filter(|_| list(&pieces).len() > leaf) else {
        return Vec::new();
    };
    let mut chains = Vec::new();
    chain(&mut chains, pieces, span, (leaf.max(1), depth));
    chains
}

/// The pieces as one rule after the other, by group, each with as many spans as it can hold.
pub(super) fn list<'a>(pieces: &[Piece<'a>]) -> Vec<Step<'a>> {
    let mut by_group: BTreeMap<Group<'a>, Vec<Span>> = BTreeMap::new();
    for piece in pieces {
        by_group.entry(piece.group).or_default().push(piece.span);
    }
    let own = by_group.into_iter().flat_map(|(group, spans)| {
        let lists = slots(&spans).into_iter().map(<[Span]>::to_vec);
        lists.map(|spans| Step::Own(spans, group)).collect::<Vec<_>>()
    });
    own.collect()
}

/// Adds the chain for these pieces, all of which touch the span, and the chains below it: so many rules at the end of each,
/// so many levels.
fn chain<'a>(
    chains: &mut Vec<Chain<'a>>,
    mut pieces: Vec<Piece<'a>>,
    span: Span,
    (leaf, depth): (usize, usize),
) {
    let place = chains.len();
    let steps = Vec::new();
    chains.push(Chain { span, steps });
    let (first, mut last) = span;
    let mut steps = Vec::new();
    loop {
        let few = list(&pieces);
        if few.len() <= leaf {
            steps.extend(few);
            break;
        }
        let leaves = few.len().div_ceil(leaf);
        let covers = |piece: &Piece<'_>| piece.span.0 <= first && piece.span.1 >= last;
        let (whole, parts): (Vec<_>, Vec<_>) = pieces.into_iter().partition(covers);
        steps.extend(covering(&whole, (first, last)));
        if depth == 0 {
            steps.extend(list(&parts));
            break;
        }
        let Some(cut) = cut(&parts, (first, last), left_share(leaves, depth)) else {
            break;
        };
        let right: Vec<_> = parts
            .iter()
            .copied()
            .filter(|piece| piece.span.1 >= cut)
            .collect();
        if !right.is_empty() {
            steps.push(Step::Branch((cut, last)));
            chain(chains, right, (cut, last), (leaf, depth - 1));
        }
        pieces = parts.into_iter().filter(|piece| piece.span.0 < cut).collect();
        last = cut - 1;
    }
    if let Some(chain) = chains.get_mut(place) {
        chain.steps = steps;
    }
}

/// The left part's share of so many leaves, as a fraction: a half as long as halves lead no deeper than this.
///
/// With `n` comparisons, at most `depth` of which are followed to the right, `Σ C(n, i)` leaves for `i ≤ depth` can be told
/// apart; with the first not followed, as many as with one comparison less.
fn left_share(leaves: usize, depth: usize) -> (usize, usize) {
    // By how many may be followed, for the number of comparisons at hand.
    let mut told = vec![1_usize; depth + 1];
    loop {
        let left = told.last().copied().unwrap_or(1);
        for followed in (1..told.len()).rev() {
            told[followed] += told[followed - 1];
        }
        let all = told.last().copied().unwrap_or(1);
        if all >= leaves.max(2) || depth == 0 {
            return (left, all);
        }
    }
}

/// What all of the span is granted to.
fn covering<'a>(whole: &[Piece<'a>], span: Span) -> Option<Step<'a>> {
    match whole {
        [] => None,
        // With its own span, not this one: such a rule stays the same when others come and the tree is cut anew.
        [piece] => Some(Step::Own(vec![piece.span], piece.group)),
        many => {
            let groups: BTreeSet<Group<'a>> = many.iter().map(|piece| piece.group).collect();
            Some(Step::Shared(span, groups.into_iter().collect()))
        }
    }
}

/// Where to cut a span in two, after its first port: where of all places where pieces begin or end the left part has its
/// share. There is no such place where each piece covers all of it.
fn cut(pieces: &[Piece<'_>], (first, last): Span, (left, all): (usize, usize)) -> Option<u16> {
    let begins = pieces
        .iter()
        .map(|piece| piece.span.0)
        .filter(|begin| *begin > first && *begin <= last);
    let ends = pieces
        .iter()
        .filter(|piece| piece.span.1 >= first && piece.span.1 < last)
        .map(|piece| piece.span.1 + 1);
    let cuts: BTreeSet<u16> = begins.chain(ends).collect();
    cuts.iter().nth(cuts.len() * left / all).copied()
}

/// Spans in lists that one rule can hold.
fn slots(mut spans: &[Span]) -> Vec<&[Span]> {
    let mut lists = Vec::new();
    while !spans.is_empty() {
        let mut used = 0;
        let fits = |(first, last): &&Span| {
            used += if first == last { 1 } else { 2 };
            used <= PORT_SLOTS
        };
        let (list, rest) = spans.split_at(spans.iter().take_while(fits).count());
        lists.push(list);
        spans = rest;
    }
    lists
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::super::PORT_JUMPS as DEPTH;
    use super::*;

    /// Whom the tree grants a port to, and how many rules a packet meets until then.
    fn walk<'a>(chains: &[Chain<'a>], port: u16) -> (BTreeSet<Group<'a>>, usize) {
        let mut found = BTreeSet::new();
        let mut met = 0;
        let mut chain = chains.first().filter(|root| within(port, root.span));
        'chains: while let Some(Chain { steps, .. }) = chain {
            for step in steps {
                met += 1;
                match step {
                    Step::Shared(span, groups) if within(port, *span) => found.extend(groups.iter().copied()),
                    Step::Own(spans, group) if spans.iter().any(|span| within(port, *span)) => {
                        found.insert(*group);
                    }
                    Step::Branch(span) if within(port, *span) => {
                        chain = chains.iter().find(|chain| chain.span == *span);
                        assert!(chain.is_some(), "{span:?} leads nowhere");
                        continue 'chains;
                    }
                    _ => {}
                }
            }
            break;
        }
        (found, met)
    }

    /// How many chains lead from one to the next at most, behind this one.
    fn deep(chains: &[Chain<'_>], chain: &Chain<'_>) -> usize {
        let below = chain.steps.iter().filter_map(|step| match step {
            Step::Branch(span) => chains.iter().find(|chain| chain.span == *span),
            _ => None,
        });
        below.map(|below| 1 + deep(chains, below)).max().unwrap_or(0)
    }

    fn within(port: u16, (first, last): Span) -> bool {
        (first..=last).contains(&port)
    }

    fn steps(chains: &[Chain<'_>]) -> usize {
        chains.iter().map(|chain| chain.steps.len()).sum()
    }

    /// As many groups as there are spans.
    fn pieces<'a>(names: &'a [String], span: impl Fn(u16) -> Span) -> BTreeSet<Piece<'a>> {
        let pieces = (0..).zip(names).map(|(number, name)| Piece {
            span: span(number),
            group: Some(name.as_str()),
        });
        pieces.collect()
    }

    fn names(count: u16) -> Vec<String> {
        (0..count).map(|number| format!("group-{number}")).collect()
    }

    #[test]
    fn few_ranges_are_no_tree() {
        let names = names(3);
        assert_eq!(
            tree(&pieces(&names, |n| (100 * n, 100 * n + 9)), 4, DEPTH),
            vec![]
        );
        assert_eq!(tree(&BTreeSet::new(), 4, DEPTH), vec![]);
    }

    #[test]
    fn one_of_a_thousand_ranges_is_found_by_their_logarithm() {
        let names = names(1_000);
        let chains = tree(&pieces(&names, |n| (2_000 + 10 * n, 2_009 + 10 * n)), 4, DEPTH);
        let worst = (0..1_100)
            .map(|tenth| walk(&chains, 1_990 + 10 * tenth).1)
            .max()
            .unwrap();
        assert!(worst <= 8 + 4, "{worst}");
        assert!(steps(&chains) <= 1_000 * 2, "{}", steps(&chains));
    }

    /// Each begins later than the one before and ends later: a port in the middle has a thousand of them.
    #[test]
    fn a_thousand_ranges_that_overlap_do_not_multiply() {
        let names = names(1_000);
        let chains = tree(&pieces(&names, |n| (n + 1, n + 30_000)), 4, DEPTH);
        let worst = (0..32_000)
            .step_by(31)
            .map(|port| walk(&chains, port).1)
            .max()
            .unwrap();
        assert!(worst <= 2 * 11 + 4, "{worst}");
        assert!(steps(&chains) <= 1_000 * 4, "{}", steps(&chains));
        let entries: usize = chains
            .iter()
            .flat_map(|chain| &chain.steps)
            .map(|step| match step {
                Step::Shared(_, groups) => groups.len(),
                _ => 1,
            })
            .sum();
        assert!(entries <= 1_000 * 2 * 11, "{entries}");
    }

    #[test]
    fn a_few_levels_are_enough_for_thousands_of_ranges() {
        assert_eq!(left_share(32, 5), (16, 32), "halves");
        let names = names(4_000);
        let chains = tree(&pieces(&names, |n| (n + 1, n + 30_000)), 4, DEPTH);
        assert_eq!(deep(&chains, &chains[0]), DEPTH);
        let worst = (0..36_000)
            .step_by(31)
            .map(|port| walk(&chains, port).1)
            .max()
            .unwrap();
        assert!(worst <= 2 * 16 + 4, "{worst}");
    }

    proptest! {
        #[test]
        fn a_tree_grants_what_its_pieces_do(
            spans in prop::collection::vec((0..40u16, 0..40u16, 0..5usize), 0..30), leaf in 0..4usize, depth in 0..5usize
        ) {
            let names = names(4);
            let piece = |(a, b, group): &(u16, u16, usize)| {
                // The ends of all ports, too.
                let port = |port: u16| if port == 39 { u16::MAX } else { port };
                Piece { span: (port(*a.min(b)), port(*a.max(b))), group: names.get(*group).map(String::as_str) }
            };
            let pieces: BTreeSet<_> = spans.iter().map(piece).collect();
            let chains = tree(&pieces, leaf, depth);
            let few: Vec<_> = pieces.iter().copied().collect();
            prop_assert_eq!(chains.is_empty(), list(&few).len() <= leaf);
            for port in (0..40).chain([u16::MAX - 1, u16::MAX]).filter(|_| !chains.is_empty()) {
                let wanted: BTreeSet<_> =
                    pieces.iter().filter(|piece| within(port, piece.span)).map(|piece| piece.group).collect();
                prop_assert_eq!(walk(&chains, port).0, wanted, "port {} in {:?}", port, chains);
            }
            prop_assert!(chains.first().is_none_or(|root| deep(&chains, root) <= depth), "{:?}", chains);
            let spans: BTreeSet<_> = chains.iter().map(|chain| chain.span).collect();
            prop_assert_eq!(spans.len(), chains.len(), "a chain is named by its span");
        }
    }
}
