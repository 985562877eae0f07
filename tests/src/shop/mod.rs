//! The three-tier shop of `examples/three-tier`: who is in it, who should reach whom, and who does.
//!
//! The matrix is one of real connections: from every pod of a client to every pod of a server (so within a node and
//! across nodes), and to the Services, by the addresses a client would use.

mod expect;
mod matrix;
mod table;

pub use expect::{after, before};
pub use matrix::{Cell, Matrix, Measured, differences, measure};
pub use table::render;

/// A client of the shop: the pods of one Deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct App {
    /// What people call it.
    pub title: &'static str,
    /// Its namespace.
    pub namespace: &'static str,
    /// The value of its pods' label `app`.
    pub app: &'static str,
}

/// The front end.
pub const WEB: App = App {
    title: "web",
    namespace: "production",
    app: "web",
};
/// The application.
pub const API: App = App {
    title: "api",
    namespace: "production",
    app: "api",
};
/// The database.
pub const DB: App = App {
    title: "db",
    namespace: "production",
    app: "db",
};
/// The scraper.
pub const PROMETHEUS: App = App {
    title: "prometheus",
    namespace: "monitoring",
    app: "prometheus",
};
/// Somebody in another namespace, with the front end's labels.
pub const ATTACKER: App = App {
    title: "attacker",
    namespace: "attacker",
    app: "web",
};

/// Every client, in the order of the table's rows.
pub const CLIENTS: [App; 5] = [WEB, API, DB, PROMETHEUS, ATTACKER];

/// Something to connect to: a column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Each pod of a server, at its own address and port.
    Pods(App, u16),
    /// A Service of the shop, at its cluster address and its own port.
    Service(App, u16),
    /// The cluster's DNS Service by UDP.
    DnsUdp,
    /// The cluster's DNS Service by TCP.
    DnsTcp,
}

/// Every target, in the order of the table's columns.
pub const TARGETS: [Target; 9] = [
    Target::Pods(WEB, 8080),
    Target::Service(WEB, 80),
    Target::Pods(API, 8080),
    Target::Service(API, 80),
    Target::Pods(API, 9090),
    Target::Pods(DB, 5432),
    Target::Service(DB, 5432),
    Target::DnsUdp,
    Target::DnsTcp,
];

impl Target {
    /// The column's title.
    pub fn title(&self) -> String {
        match self {
            Self::Pods(app, port) => format!("{}:{port}", app.title),
            Self::Service(app, port) => format!("svc/{}:{port}", app.title),
            Self::DnsUdp => "dns/udp".to_owned(),
            Self::DnsTcp => "dns/tcp".to_owned(),
        }
    }

    /// Whether a client's connection to this target could end at the very pod it came from, which is always allowed: a
    /// Service chooses among its pods by chance, so such a pair says nothing.
    pub fn may_be_self(&self, client: &App) -> bool {
        matches!(self, Self::Service(app, _) if app == client)
    }
}
