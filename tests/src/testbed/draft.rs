//! Folders that belong to this process and are gone when it is, however it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use super::process::{self, Process};

/// A folder of this process, removed on drop. If the process is killed, the next one to make such a folder removes it.
#[derive(Debug)]
pub(crate) struct Draft {
    path: PathBuf,
}

impl Draft {
    /// Makes a folder below `base` whose name begins with `prefix`, and removes those of dead processes.
    pub(crate) fn new(base: &Path, prefix: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep(base, prefix);
        let pid = i32::try_from(std::process::id()).context("a pid beyond i32")?;
        let start = process::stat(pid).map_or(0, |stat| stat.start_time);
        let path = base.join(format!(
            "{prefix}{pid}-{start}-{}",
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir(&path).with_context(|| format!("make folder {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Nobody is there to hear of a failure, and the next process tries again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders of processes that are gone. Somebody else's that cannot be removed is theirs to remove.
fn sweep(base: &Path, prefix: &str) {
    for entry in fs::read_dir(base).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name, prefix).is_some_and(|owner| !owner.alive()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process that a folder of this name belongs to.
fn owner(name: &str, prefix: &str) -> Option<Process> {
    let mut parts = name.strip_prefix(prefix)?.split('-');
    Some(Process {
        pid: parts.next()?.parse().ok()?,
        start_time: parts.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_folders_of_dead_owners_are_swept() {
        let base = tempfile::tempdir().unwrap();
        let mine = Draft::new(base.path(), "draft-").unwrap();
        let dead = base.path().join(format!("draft-{}-1-0", std::process::id()));
        let other = base.path().join("draft-notes");
        for dir in [&dead, &other] {
            fs::create_dir(dir).unwrap();
        }
        let second = Draft::new(base.path(), "draft-").unwrap();
        assert!(mine.path().exists() && other.exists() && !dead.exists());
        let gone = second.path().to_owned();
        drop(second);
        assert!(!gone.exists() && mine.path().exists());
    }
}
