//! Which pods are isolated, and by what.

use crate::model::{Direction, Pod, Policy};
use crate::world::World;

/// The policies that isolate `pod` in `direction`, in the order of their names.
pub fn isolating<'w>(world: &'w World, pod: &Pod, direction: Direction) -> Vec<&'w Policy> {
    world
        .policies
        .values()
        .filter(|policy| policy.isolates(pod, direction))
        .collect()
}
