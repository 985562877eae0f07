//! A Git repository that a test commits to.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::run;

/// Its name below the Git server's folder.
pub(super) const NAME: &str = "cluster.git";

/// A working tree, and the bare repository that it is pushed to.
#[derive(Debug)]
pub struct Repository {
    work: PathBuf,
}

impl Repository {
    /// Makes a bare repository in `served`, and an empty working tree of it at `work`.
    pub(super) fn create(served: &Path, work: &Path) -> Result<Self> {
        let bare = served.join(NAME);
        run(Command::new("git")
            .args(["init", "--quiet", "--bare", "--initial-branch=main"])
            .arg(&bare))?;
        run(Command::new("git")
            .args(["init", "--quiet", "--initial-branch=main"])
            .arg(work))?;
        let repository = Self {
            work: work.to_owned(),
        };
        repository.git([
            OsStr::new("remote"),
            OsStr::new("add"),
            OsStr::new("origin"),
            bare.as_os_str(),
        ])?;
        Ok(repository)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.work.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Copies a folder of the source tree.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.work.join(to);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
        }
        run(Command::new("cp").arg("-r").arg(from).arg(to)).map(drop)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, path: &str) -> Result<()> {
        let path = self.work.join(path);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// Commits everything and pushes it.
    ///
    /// # Errors
    /// When Git refuses.
    pub fn commit(&self, message: &str) -> Result<()> {
        self.git(["add", "--all"])?;
        self.git(["commit", "--quiet", "--message", message])?;
        self.push()
    }

    /// Takes the last commit back by another one, and pushes it.
    ///
    /// # Errors
    /// When Git refuses.
    pub fn revert(&self) -> Result<()> {
        self.git(["revert", "--no-edit", "HEAD"])?;
        self.push()
    }

    fn push(&self) -> Result<()> {
        self.git(["push", "--quiet", "origin", "main"])
    }

    fn git<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<()> {
        let author = [
            "user.name=test",
            "user.email=test@example.com",
            "commit.gpgsign=false",
        ];
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.work);
        for setting in author {
            command.args(["-c", setting]);
        }
        run(command.args(arguments)).map(drop)
    }
}
