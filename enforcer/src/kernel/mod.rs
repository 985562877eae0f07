//! The kernel's side: reads what it holds, writes transactions: sets by netlink, rules by iptables.

mod cleanup;
mod ipset;
mod news;
pub mod tied;
mod tools;
mod variant;

pub use cleanup::{cleanup, remove_rules};
pub use ipset::Sets;
pub use news::{Listening, News};
pub use tools::Tools;
pub use variant::{Variant, VariantChoice, detect};

use crate::error::Result;
use crate::observe;
use crate::render;
use crate::ruleset::Family;
use crate::state::{Glance, Phase, State};

/// What an [`Engine`](crate::engine::Engine) needs of a kernel.
pub trait Kernel {
    /// Everything that the kernel holds of ours.
    ///
    /// # Errors
    /// A tool failed, or printed what nobody understands.
    fn read(&mut self) -> Result<State>;

    /// As much of it as can be read cheaply and often: rules in full, of sets the number of elements.
    ///
    /// # Errors
    /// As [`Kernel::read`].
    fn glance(&mut self) -> Result<Glance>;

    /// Makes one phase of a transaction.
    ///
    /// # Errors
    /// A tool failed. A phase about chains had no effect then, one about sets may have had some.
    fn write(&mut self, phase: &Phase) -> Result<()>;
}

/// The kernel of this network namespace, or of the one that the tools are started in.
#[derive(Debug, Clone)]
pub struct LocalKernel {
    tools: Tools,
    variant: Variant,
    families: Vec<Family>,
}

impl LocalKernel {
    /// The kernel, through the tools of a variant, for these families.
    pub fn new(tools: Tools, variant: Variant, families: &[Family]) -> Self {
        Self {
            tools,
            variant,
            families: families.to_vec(),
        }
    }
}

impl Kernel for LocalKernel {
    fn read(&mut self) -> Result<State> {
        let mut state = State {
            sets: self.tools.sets().read()?,
            ..State::default()
        };
        for family in &self.families {
            let saved = self.tools.save(self.variant, *family, true)?;
            state.families.insert(*family, observe::tables(&saved));
        }
        Ok(state)
    }

    fn glance(&mut self) -> Result<Glance> {
        let mut glance = Glance {
            sizes: self.tools.sets().sizes()?,
            ..Glance::default()
        };
        for family in &self.families {
            let saved = self.tools.save(self.variant, *family, true)?;
            glance.families.insert(*family, observe::tables(&saved));
        }
        Ok(glance)
    }

    fn write(&mut self, phase: &Phase) -> Result<()> {
        match phase {
            Phase::Sets(changes) => {
                tracing::trace!("{}", render::sets(changes));
                self.tools.change_sets(changes)
            }
            Phase::Chains(family, change) => {
                let script = render::chains(change);
                tracing::trace!("{script}");
                self.tools.restore_chains(self.variant, *family, &script)
            }
        }
    }
}
