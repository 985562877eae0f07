//! The program's metrics: what it registers, what it is and what it costs.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::process::ProcessCollector;

/// Which program this is, for `ringfence_build_info`.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The name of its binary.
    pub name: &'static str,
    /// Its version, usually `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
}

/// A closed registry, ready to be scraped. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
}

impl Metrics {
    /// The metrics `register` adds, and beside them `ringfence_build_info` and the `process_*` family. Names are
    /// written out in full by whoever registers them, so that they can be found by searching for them.
    pub fn build(program: &Program, register: impl FnOnce(&mut Registry)) -> Self {
        let mut registry = Registry::default();
        let build = Family::<[(&'static str, &'static str); 2], Gauge>::default();
        build
            .get_or_create(&[("program", program.name), ("version", program.version)])
            .set(1);
        registry.register(
            "ringfence_build_info",
            "The program and its version; always 1",
            build,
        );
        registry.register_collector(Box::new(ProcessCollector));
        register(&mut registry);
        Self {
            registry: Arc::new(registry),
        }
    }

    /// All metrics in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = text::encode(&mut text, &self.registry) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        text
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
