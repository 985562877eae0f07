//! What can go wrong, each with one stable name for logs and metrics.

/// The result of an enforcer's operation.
pub type Result<T> = std::result::Result<T, Error>;

/// An enforcer's error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool that the enforcer needs could not be started.
    #[error("cannot run {tool}: {source}; install it, or name another --iptables-variant")]
    ToolMissing {
        /// The program.
        tool: String,
        /// Why it did not start.
        source: std::io::Error,
    },
    /// Another program kept the lock of the tables.
    #[error("{tool} did not get the xtables lock within {seconds} s: another program holds it; trying again")]
    LockHeld {
        /// The program.
        tool: String,
        /// How long it waited.
        seconds: u64,
    },
    /// A tool refused what it was given.
    #[error("{tool} failed ({status}): {message}")]
    ToolFailed {
        /// The program with its arguments.
        tool: String,
        /// How it ended.
        status: String,
        /// What it said, and the line it objected to.
        message: String,
    },
    /// A tool printed what nobody understands.
    #[error("cannot understand what {tool} printed: {line:?}")]
    Unreadable {
        /// The program.
        tool: String,
        /// The line.
        line: String,
    },
    /// The filter table holds rules that iptables cannot read, so nobody can say what of ours is in it.
    #[error(
        "{tool} cannot read the filter table: `nft` has put a rule into it that iptables does not know; move that rule to a \
         table of its own (`nft list table {table} filter` shows it). Until then nothing is written"
    )]
    TableUnreadable {
        /// The program.
        tool: String,
        /// The family of the table as nft names it.
        table: &'static str,
    },
    /// The kernel's sets cannot be reached, or the kernel refused a change of one.
    #[error("cannot {what}: {source}; trying again")]
    Sets {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The kernel lacks a type of set that the rules need.
    #[error(
        "the kernel has no set type {0}: load its module, as `ringfence-enforcer prepare` does, or use a kernel that has it"
    )]
    SetTypeMissing(&'static str),
    /// The kernel's connection tracking did not answer, or refused.
    #[error("cannot {what}: {source}; connections that policies no longer allow are not ended")]
    Conntrack {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The kernel does not tell of changes to rules.
    #[error("cannot listen for changes of rules: {0}; what others change is found by the next audit only")]
    News(std::io::Error),
    /// Something of ours is left after a clean-up.
    #[error(
        "left behind after clean-up: {0}; another rule refers to it, remove that rule and run cleanup again"
    )]
    Remains(String),
    /// All generations of a set are taken.
    #[error("no free generation for the set {0}: remove leftovers with `ringfence-enforcer cleanup`")]
    NoGeneration(String),
    /// A file of the node cannot be worked with.
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        path: std::path::PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The CNI plugin has no place on this node; in words, with the remedy.
    #[error("{0}")]
    Cni(String),
    /// The API server's side failed.
    #[error("{0}")]
    Api(String),
}

impl Error {
    /// The stable name of the error, a metric label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ToolMissing { .. } => "ToolMissing",
            Self::LockHeld { .. } => "LockHeld",
            Self::ToolFailed { .. } => "ToolFailed",
            Self::Unreadable { .. } => "Unreadable",
            Self::TableUnreadable { .. } => "TableUnreadable",
            Self::Sets { .. } => "Sets",
            Self::SetTypeMissing(_) => "SetTypeMissing",
            Self::Conntrack { .. } => "Conntrack",
            Self::News(_) => "News",
            Self::Remains(_) => "Remains",
            Self::NoGeneration(_) => "NoGeneration",
            Self::File { .. } => "File",
            Self::Cni(_) => "Cni",
            Self::Api(_) => "Api",
        }
    }
}
