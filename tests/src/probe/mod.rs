//! Connectivity, asked with real sockets from inside a network namespace.
