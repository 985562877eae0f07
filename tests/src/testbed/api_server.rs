//! An API server without nodes.

/// Placeholder until the cluster stands.
#[derive(Debug)]
pub struct ApiServer;
