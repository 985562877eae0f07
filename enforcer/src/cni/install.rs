//! The plugin's binary and its entry on the node's disk.
//!
//! The order matters: an entry whose binary is missing blocks every pod of the node. So the binary comes before the entry,
//! and the entry goes before the binary.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::PLUGIN;
use super::conflist::{self, Entry};
use crate::error::{Error, Result};

/// The endings of files that a container runtime takes for network configurations.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

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

/// Puts the entry into the configuration that the runtime uses, the first by name, and takes it out of all others.
/// Returns the files that changed.
///
/// # Errors
/// There is no configuration, or none that can have the entry, or a file cannot be read or written.
pub fn keep_entry(folder: &Path, entry: &Entry) -> Result<Vec<PathBuf>> {
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
    let changed = match configurations(conf_dir) {
        Ok(files) => take_out(&files)?,
        Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
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

/// Takes the entry out of these files. One that no entry can be in is left alone.
fn take_out(files: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for file in files {
        if edit(file, |text| Ok(conflist::without_entry(text).unwrap_or(None)))? {
            changed.push(file.clone());
        }
    }
    Ok(changed)
}

/// The files that the runtime may take for configurations, in the order in which it looks at them.
fn configurations(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| failed("list", folder, error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failed("list", folder, error))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| ENDINGS.contains(&ending)) {
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
    // Its owner may have written meanwhile. What it wrote must not be lost, so look again next time.
    if fs::read_to_string(file).map_err(|error| failed("read", file, error))? != text {
        return Ok(false);
    }
    write(file, new.as_bytes(), metadata.permissions())?;
    Ok(true)
}

/// Writes a file at once: nobody ever sees half of it. The file that it is renamed from is none that a runtime reads.
fn write(target: &Path, content: &[u8], permissions: Permissions) -> Result<()> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let new = target.with_file_name(format!(".{name}.ringfence-new"));
    let done = fs::write(&new, content)
        .and_then(|()| fs::set_permissions(&new, permissions))
        .and_then(|()| fs::File::open(&new)?.sync_all())
        .and_then(|()| fs::rename(&new, target));
    done.map_err(|error| failed("write", target, error))
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::protocol::Fallback;
    use super::*;

    const BRIDGE: &str = r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge"}]}"#;

    fn entry() -> Entry {
        Entry {
            socket: "/s".to_owned(),
            timeout_seconds: 5,
            without_enforcer: Fallback::Closed,
        }
    }

    struct Node {
        folder: tempfile::TempDir,
    }

    impl Node {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }

        fn keep(&self) -> Result<Vec<PathBuf>> {
            keep_entry(self.folder.path(), &entry())
        }

        fn files(&self) -> usize {
            fs::read_dir(self.folder.path()).unwrap().count()
        }
    }

    #[test]
    fn the_entry_is_put_back_when_its_owner_rewrites_the_file_and_cleanup_leaves_it_as_it_was() {
        let node = Node::new();
        node.write("10-n.conflist", BRIDGE);
        fs::set_permissions(node.path("10-n.conflist"), Permissions::from_mode(0o600)).unwrap();
        assert_eq!(node.keep().unwrap(), [node.path("10-n.conflist")]);
        assert!(node.read("10-n.conflist").contains(PLUGIN));
        assert!(node.keep().unwrap().is_empty(), "it is there");
        let other = BRIDGE.replace("bridge", "ptp");
        node.write("10-n.conflist", &other);
        assert_eq!(node.keep().unwrap().len(), 1);
        assert!(node.read("10-n.conflist").contains(PLUGIN));
        let mode = fs::metadata(node.path("10-n.conflist"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let removed = remove(node.folder.path(), node.folder.path()).unwrap();
        assert_eq!(removed.len(), 1, "{removed:?}");
        assert_eq!(node.read("10-n.conflist"), other);
        assert_eq!(node.files(), 1);
        assert!(remove(node.folder.path(), node.folder.path()).unwrap().is_empty());
    }

    #[test]
    fn the_configuration_that_the_runtime_uses_has_the_entry_and_no_other() {
        let node = Node::new();
        node.write("20-n.conflist", BRIDGE);
        node.write("30-old.conf", r#"{"cniVersion": "1.0.0", "type": "bridge"}"#);
        node.write("00-readme.txt", "not a configuration");
        node.keep().unwrap();
        assert!(node.read("20-n.conflist").contains(PLUGIN));
        node.write("10-new.conflist", BRIDGE);
        assert_eq!(node.keep().unwrap().len(), 2);
        assert!(node.read("10-new.conflist").contains(PLUGIN));
        assert_eq!(node.read("20-n.conflist"), BRIDGE);
    }

    #[test]
    fn a_single_plugins_file_and_no_file_are_errors_that_say_what_to_do() {
        let node = Node::new();
        assert!(
            node.keep()
                .unwrap_err()
                .to_string()
                .contains("no network configuration")
        );
        node.write("10-n.conf", r#"{"cniVersion": "1.0.0", "type": "bridge"}"#);
        let error = node.keep().unwrap_err().to_string();
        assert!(
            error.contains("10-n.conf") && error.contains(".conflist"),
            "{error}"
        );
    }

    #[test]
    fn the_binary_is_copied_once_and_again_when_it_is_another() {
        let node = Node::new();
        let bin = Node::new();
        node.write("new", "one");
        assert!(binary(&node.path("new"), bin.folder.path()).unwrap());
        assert!(!binary(&node.path("new"), bin.folder.path()).unwrap());
        node.write("new", "two");
        assert!(binary(&node.path("new"), bin.folder.path()).unwrap());
        assert_eq!(bin.read(PLUGIN), "two");
        let mode = fs::metadata(bin.path(PLUGIN)).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, bin.files()), (0o755, 1));
    }

    #[test]
    fn the_binary_stays_as_long_as_an_entry_may() {
        let node = Node::new();
        let bin = Node::new();
        bin.write(PLUGIN, "binary");
        std::os::unix::fs::symlink("/nowhere", node.path("10-broken.conflist")).unwrap();
        assert!(remove(node.folder.path(), bin.folder.path()).is_err());
        assert_eq!(bin.read(PLUGIN), "binary");
    }
}
