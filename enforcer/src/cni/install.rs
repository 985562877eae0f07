//! The plugin's binary and its entry on the node's disk.
//!
//! The order matters: an entry whose binary is missing blocks every pod of the node. So the binary comes before the entry,
//! and the entry goes before the binary.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::PLUGIN;
use super::conflist::{self, Entry};
use crate::error::{Error, Result};

/// The endings of files that a container runtime takes for network configurations.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// How often, and after what pause, an entry is taken out of a file that its owner writes at the same time.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Copies the plugin's binary into the folder of CNI plugins, unless it is there already. Returns whether it was copied.
///
/// # Errors
/// A file cannot be read or written.
pub fn binary(source: &Path, folder: &Path) -> Result<bool> {
    let target = folder.join(PLUGIN);
    let wanted = fs::read(source).map_err(|source_error| failed("read", source, source_error))?;
    let is_there = fs::read(&target).is_ok_and(|held| held == wanted);
    if !is_there {
        write(&target, &wanted, Permissions::from_mode(0o755))?;
    }
    Ok(!is_there)
}

/// Sees that the binary is there, and then that the entry is in the configuration that the runtime uses. Without the binary no
/// entry stays: the runtime would start no pod. Returns the files that changed.
///
/// # Errors
/// The binary is not there and cannot be copied; there is no configuration that can have the entry; a file cannot be read or
/// written.
pub fn keep(source: &Path, bin_dir: &Path, conf_dir: &Path, entry: &Entry) -> Result<Vec<PathBuf>> {
    let target = bin_dir.join(PLUGIN);
    let mut changed = Vec::new();
    // Its content is looked at once, when the enforcer is installed.
    if !target.is_file() {
        if let Err(error) = binary(source, bin_dir) {
            take_out(&configurations(conf_dir)?)?;
            return Err(error);
        }
        changed.push(target);
    }
    changed.extend(keep_entry(conf_dir, entry)?);
    Ok(changed)
}

/// Puts the entry into the configuration that the runtime uses, the first by name, and takes it out of all others.
/// Returns the files that changed.
///
/// # Errors
/// There is no configuration, or none that can have the entry, or a file cannot be read or written.
fn keep_entry(folder: &Path, entry: &Entry) -> Result<Vec<PathBuf>> {
    let files = configurations(folder)?;
    let Some((first, others)) = files.split_first() else {
        return Err(Error::Cni(format!(
            "{}: no network configuration yet, nothing to chain the plugin to",
            folder.display()
        )));
    };
    let mut changed = Vec::new();
    let unfit = |why: conflist::Unfit| Error::Cni(format!("{}: {why}", first.display()));
    if edit(first, |text| conflist::with_entry(text, entry).map_err(unfit))? {
        changed.push(first.clone());
    }
    changed.extend(take_out(others)?);
    Ok(changed)
}

/// Takes the entry out of every configuration, then the binary away. Returns what was removed, in words.
///
/// # Errors
/// A file cannot be read, written or removed. The binary stays as long as an entry may.
pub fn remove(conf_dir: &Path, bin_dir: &Path) -> Result<Vec<String>> {
    let files = match configurations(conf_dir) {
        Ok(files) => files,
        Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut changed = take_out(&files)?;
    // A file whose owner was writing it was left alone.
    let mut attempts = 1;
    while let Some(file) = files.iter().find(|file| names_plugin(file)) {
        if attempts == ATTEMPTS {
            return Err(Error::Cni(format!(
                "{} still names {PLUGIN}, whose binary therefore stays: take it out, then run cleanup",
                file.display()
            )));
        }
        attempts += 1;
        sleep(PAUSE);
        changed.extend(take_out(&files)?);
    }
    let mut removed: Vec<String> = changed
        .iter()
        .map(|file| format!("the entry in {}", file.display()))
        .collect();
    let binary = bin_dir.join(PLUGIN);
    match fs::remove_file(&binary) {
        Ok(()) => removed.push(binary.display().to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed("remove", &binary, error)),
    }
    Ok(removed)
}

/// Takes the entry out of these files, of all that can be changed. One that no entry can be in is left alone.
fn take_out(files: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    let mut first_error = None;
    for file in files {
        match edit(file, |text| Ok(conflist::without_entry(text).unwrap_or(None))) {
            Ok(true) => changed.push(file.clone()),
            Ok(false) => {}
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(changed), Err)
}

/// Whether a file says anything of the plugin: also where its owner was writing it a moment ago, or in words that are not
/// ours.
fn names_plugin(file: &Path) -> bool {
    let quoted = format!("\"{PLUGIN}\"");
    fs::read_to_string(file).is_ok_and(|text| text.contains(&quoted))
}

/// The files that the runtime may take for configurations, in the order in which it looks at them.
fn configurations(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| failed("list", folder, error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failed("list", folder, error))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        // Runtimes skip folders.
        if ending.is_some_and(|ending| ENDINGS.contains(&ending)) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Changes a file's text, if `change` wants another. Returns whether it did.
fn edit(file: &Path, change: impl Fn(&str) -> Result<Option<String>>) -> Result<bool> {
    // What a link leads to is changed; the link stays.
    let file = &fs::canonicalize(file).map_err(|error| failed("find", file, error))?;
    let text = fs::read_to_string(file).map_err(|error| failed("read", file, error))?;
    let Some(new) = change(&text)? else {
        return Ok(false);
    };
    let metadata = fs::metadata(file).map_err(|error| failed("read", file, error))?;
    let draft = Draft::write(file, new.as_bytes(), metadata.permissions())?;
    draft.owned_like(&metadata)?;
    // Its owner may have written meanwhile. What it wrote must not be lost, so look again next time.
    if fs::read_to_string(file).map_err(|error| failed("read", file, error))? != text {
        return Ok(false);
    }
    draft.put()?;
    Ok(true)
}

/// Writes a file at once: nobody ever sees half of it.
fn write(target: &Path, content: &[u8], permissions: Permissions) -> Result<()> {
    Draft::write(target, content, permissions)?.put()
}

/// What is to take a file's place, beside it under a name that no runtime reads. Gone unless it is put there.
struct Draft<'a> {
    target: &'a Path,
    path: PathBuf,
}

impl<'a> Draft<'a> {
    fn write(target: &'a Path, content: &[u8], permissions: Permissions) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.ringfence-new"));
        let draft = Self { target, path };
        let done = fs::write(&draft.path, content)
            .and_then(|()| fs::set_permissions(&draft.path, permissions))
            .and_then(|()| fs::File::open(&draft.path)?.sync_all());
        done.map_err(|error| failed("write", target, error))?;
        Ok(draft)
    }

    /// Gives it to the owner of the file that it replaces, who could not read it otherwise.
    fn owned_like(&self, old: &Metadata) -> Result<()> {
        let new = fs::metadata(&self.path).map_err(|error| failed("read", &self.path, error))?;
        if (new.uid(), new.gid()) == (old.uid(), old.gid()) {
            return Ok(());
        }
        chown(&self.path, Some(old.uid()), Some(old.gid()))
            .map_err(|error| failed("keep the owner of", self.target, error))
    }

    fn put(self) -> Result<()> {
        fs::rename(&self.path, self.target).map_err(|error| failed("write", self.target, error))
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // Once it is put in its place there is nothing left here.
        let _ = fs::remove_file(&self.path);
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
