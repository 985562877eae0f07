//! Why a flow passes or not, in the words of the policies.
//!
//! A verdict names the rule that allowed a flow. For a denial no rule did, so an explanation names what came nearest: the
//! policy, the field that kept it from matching, and what would have to change.

mod miss;
mod remedy;
mod search;

use std::fmt;

pub use miss::{Labelled, Miss, NearMiss, Reason, Unmet};
pub use remedy::Remedy;

use crate::evaluate::{DirectionVerdict, Flow, Lookup, Verdict, evaluate_side};
use crate::model::{Direction, ObjectKey};
use crate::world::World;

/// Why a flow passes or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The flow.
    pub flow: Flow,
    /// The source's side.
    pub egress: Side,
    /// The destination's side.
    pub ingress: Side,
}

/// One side of an explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The pod of this side, if it is one.
    pub pod: Option<ObjectKey>,
    /// The policies that isolate it in this direction, in the order of their names.
    pub policies: Vec<ObjectKey>,
    /// What this side says.
    pub verdict: DirectionVerdict,
    /// For a denial: what came nearest.
    pub near_miss: Option<NearMiss>,
}

impl Explanation {
    /// The verdict that is explained.
    pub fn verdict(&self) -> Verdict {
        Verdict {
            egress: self.egress.verdict.clone(),
            ingress: self.ingress.verdict.clone(),
        }
    }

    /// Whether the flow passes.
    pub fn allowed(&self) -> bool {
        self.egress.verdict.allowed() && self.ingress.verdict.allowed()
    }

    /// What came nearest on the sides that deny: one, both or none. A flow passes when the remedies of all are applied.
    pub fn near_misses(&self) -> impl Iterator<Item = &NearMiss> {
        self.egress.near_miss.iter().chain(&self.ingress.near_miss)
    }
}

/// Decides about one flow as [`evaluate`](crate::evaluate) does, and says why.
pub fn explain(world: &World, flow: &Flow) -> Explanation {
    explain_in(world, flow)
}

pub(crate) fn explain_in(world: &impl Lookup, flow: &Flow) -> Explanation {
    Explanation {
        flow: *flow,
        egress: explain_side(world, flow, Direction::Egress),
        ingress: explain_side(world, flow, Direction::Ingress),
    }
}

fn explain_side(world: &impl Lookup, flow: &Flow, direction: Direction) -> Side {
    let verdict = evaluate_side(world, flow, direction);
    let (own, _) = flow.sides(direction);
    let pod = world.pod(own);
    let policies = pod.map_or_else(Vec::new, |pod| world.isolating(pod, direction));
    let near_miss = match (&verdict, pod) {
        (DirectionVerdict::Denied(_), Some(pod)) => search::nearest(world, pod, &policies, flow, direction),
        _ => None,
    };
    Side {
        pod: pod.map(|pod| pod.key.clone()),
        policies: policies.iter().map(|policy| policy.key.clone()).collect(),
        verdict,
        near_miss,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flow {
            source,
            destination,
            protocol,
            port,
        } = self.flow;
        let verdict = if self.allowed() { "allowed" } else { "denied" };
        writeln!(f, "{source} -> {destination} {protocol} {port}: {verdict}")?;
        for (direction, side) in [
            (Direction::Egress, &self.egress),
            (Direction::Ingress, &self.ingress),
        ] {
            side.write(f, direction)?;
        }
        Ok(())
    }
}

impl Side {
    fn write(&self, f: &mut fmt::Formatter<'_>, direction: Direction) -> fmt::Result {
        write!(f, "  {direction}: ")?;
        let pod = self.pod.as_ref().map(ToString::to_string).unwrap_or_default();
        match &self.verdict {
            DirectionVerdict::NotAPod => writeln!(f, "not a pod, no policy applies"),
            DirectionVerdict::AlwaysAllowed => writeln!(
                f,
                "pod {pod} speaks with itself or its own node, which no policy forbids"
            ),
            DirectionVerdict::NotIsolated => {
                writeln!(f, "pod {pod} is open, no policy isolates it for {direction}")
            }
            DirectionVerdict::Allowed(matched) => {
                writeln!(f, "pod {pod}: allowed by {}", matched.at(direction))
            }
            DirectionVerdict::Denied(policies) => {
                let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
                writeln!(
                    f,
                    "pod {pod} is isolated by {}, and no rule allows the flow",
                    names.join(", ")
                )?;
                match &self.near_miss {
                    Some(near) => writeln!(f, "    nearest: {near}\n    remedy: {}", near.remedy),
                    None => Ok(()),
                }
            }
        }
    }
}
