//! What a cluster writes down about itself, and the lock that keeps two commands from working on it at once.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::options::ClusterOptions;
use super::paths::Paths;
use super::progress::Progress;

/// Raised whenever a running cluster of the older making should be rebuilt.
const LAYOUT: u32 = 1;

/// The state file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    layout: u32,
    pub(crate) options: ClusterOptions,
    fingerprint: String,
    /// Whether the cluster ever came up whole.
    pub(crate) ready: bool,
    pub(crate) api_port: u16,
    pub(crate) kubectl: PathBuf,
}

impl State {
    pub(crate) fn new(
        options: &ClusterOptions,
        fingerprint: String,
        api_port: u16,
        kubectl: PathBuf,
    ) -> Self {
        Self {
            layout: LAYOUT,
            options: options.clone(),
            fingerprint,
            ready: false,
            api_port,
            kubectl,
        }
    }

    /// Whether a cluster with this state is what `up` would build now.
    pub(crate) fn serves(&self, options: &ClusterOptions, fingerprint: &str) -> bool {
        self.ready && self.layout == LAYOUT && self.options == *options && self.fingerprint == fingerprint
    }

    /// The state of the cluster, if there is one. A file nobody can read is what a dead predecessor left.
    pub(crate) fn read(paths: &Paths) -> Result<Option<Self>> {
        let path = paths.cluster_file();
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        }
    }

    pub(crate) fn write(&self, paths: &Paths) -> Result<()> {
        let path = paths.cluster_file();
        let draft = path.with_extension("draft");
        fs::write(&draft, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("write {}", path.display()))
    }
}

/// The cluster's lock, held until dropped.
pub(crate) struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    /// Removes the lock's file and then lets go of it.
    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("remove {}", self.path.display()))
    }
}

/// Takes the cluster's lock; waits while another command has it.
pub(crate) fn lock(paths: &Paths, progress: &dyn Progress) -> Result<Lock> {
    let path = paths.lock();
    loop {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .with_context(|| format!("open lock {}", path.display()))?;
        let locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((file, Errno::EWOULDBLOCK)) => {
                progress.note(&format!(
                    "wait: another command is working on cluster {}",
                    paths.name()
                ));
                Flock::lock(file, FlockArg::LockExclusive)
            }
            outcome => outcome,
        };
        let file = locked
            .map_err(|(_, error)| error)
            .with_context(|| format!("lock {}", path.display()))?;
        // Whoever had it may have removed the file: then this lock excludes nobody.
        let held = file
            .metadata()
            .with_context(|| format!("look at {}", path.display()))?;
        if fs::symlink_metadata(&path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino()))
        {
            return Ok(Lock { path, _file: file });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_whole_cluster_of_the_same_making_serves() {
        let options = ClusterOptions::default();
        let whole = State {
            ready: true,
            ..State::new(&options, "a".into(), 1, "k".into())
        };
        assert!(whole.serves(&options, "a"));
        assert!(!whole.serves(&options, "b"));
        assert!(!whole.serves(
            &ClusterOptions {
                nodes: 3,
                ..options.clone()
            },
            "a"
        ));
        assert!(
            !State {
                ready: false,
                ..whole.clone()
            }
            .serves(&options, "a")
        );
        assert!(
            !State {
                layout: LAYOUT + 1,
                ..whole
            }
            .serves(&options, "a")
        );
    }
}
