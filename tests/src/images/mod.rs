//! Container images as OCI archives, written by hand: no registry, no container engine.
//!
//! ```text
//!   cargo build (static) ─► program ──────────────────────┐
//!   debootstrap ─► folder ─► base layer (cached) ─► archive ─► target/images/NAME.tar
//! ```
//! `build/Dockerfile` makes the same images for those who have an engine; a test holds the two together.

mod archive;
mod base;
mod build;
mod spec;

pub use archive::{ImageSpec, LayerFile, write_archive};
pub use build::{ImageOptions, build};
pub use spec::{ENFORCER, OPERATOR, Recipe};
