//! What benchmarks of whole clusters share.
#![allow(dead_code, reason = "each benchmark uses a part")]

pub(crate) mod api;
pub(crate) mod figures;
pub(crate) mod namespaces;
pub(crate) mod packets;
pub(crate) mod process;

use std::env;
use std::str::FromStr;

use anyhow::{Context, Result};

/// The number that the environment sets as `RINGFENCE_BENCH_NAME`.
pub(crate) fn number<T: FromStr>(name: &str, default: T) -> Result<T> {
    let name = format!("RINGFENCE_BENCH_{name}");
    match env::var(&name) {
        Err(_) => Ok(default),
        Ok(text) => text
            .parse()
            .ok()
            .with_context(|| format!("{name}={text}: give a whole number")),
    }
}
