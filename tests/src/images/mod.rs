//! Container images as OCI archives, written by hand: no registry, no container engine.

mod archive;

pub use archive::{ImageSpec, LayerFile, write_archive};
