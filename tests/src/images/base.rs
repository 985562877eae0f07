//! The base layer: a minimal Debian with some packages, as a tar that is the same whenever its files are.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::spec::STRIPPED;
use crate::testbed::{
    DRAFTS, Draft, FOR_IMAGES, Progress, cache_dir, ensure_installed, require_root, run, step,
};

/// The machine's own Debian release and where it gets its packages.
#[derive(Debug, PartialEq, Eq)]
struct Suite {
    name: String,
    mirror: String,
}

/// The layer with `packages` installed, from the cache or made now. Replaces nothing: another suite or other packages
/// are another file.
pub(super) fn layer(packages: &[&str], progress: &dyn Progress) -> Result<PathBuf> {
    let suite = suite()?;
    let cache = cache_dir()?;
    fs::create_dir_all(&cache).with_context(|| format!("make cache folder {}", cache.display()))?;
    let layer = cache.join(format!("base-{}-{}.tar", suite.name, key(&suite.name, packages)));
    if layer.exists() {
        return Ok(layer);
    }
    require_root("making an image's base layer with debootstrap")?;
    ensure_installed(FOR_IMAGES, progress)?;
    let scratch = Draft::new(&cache, DRAFTS)?;
    let root = scratch.path().join("root");
    step(
        progress,
        &format!("install Debian {} with {}", suite.name, packages.join(", ")),
        || {
            debootstrap(&suite, packages, &root)?;
            strip(&root)
        },
    )?;
    let draft = scratch.path().join("layer.tar");
    step(progress, "write the base layer", || write_tree(&root, &draft))?;
    fs::rename(&draft, &layer).with_context(|| format!("put {} in place", layer.display()))?;
    Ok(layer)
}

fn key(suite: &str, packages: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in [suite].iter().chain(packages).chain(STRIPPED) {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn suite() -> Result<Suite> {
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let targets = run(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(CODENAME) $(COMPONENT) $(REPO_URI)",
        "Created-By: Packages",
    ]))
    .context("ask apt where packages come from (images are built on Debian)")?;
    find_suite(&release, &targets)
}

/// The suite named in os-release and the first place apt gets its `main` component from.
fn find_suite(release: &str, targets: &str) -> Result<Suite> {
    let Some(name) = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
    else {
        bail!("/etc/os-release names no VERSION_CODENAME: images are built on a released Debian");
    };
    let mirror = targets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name) && words.next() == Some("main"))
            .then(|| words.next())
            .flatten()
    });
    let Some(mirror) = mirror else {
        bail!("apt knows no source for {name} main: add one to /etc/apt/sources.list and run apt-get update");
    };
    Ok(Suite {
        name: name.to_owned(),
        mirror: mirror.to_owned(),
    })
}

fn debootstrap(suite: &Suite, packages: &[&str], root: &Path) -> Result<()> {
    let mut command = Command::new("debootstrap");
    command
        .arg("--variant=minbase")
        .arg(format!("--include={}", packages.join(",")));
    command.arg(&suite.name).arg(root).arg(&suite.mirror);
    run(&mut command).map(drop)
}

/// Removes what no container needs and what belongs to this machine.
fn strip(root: &Path) -> Result<()> {
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    for dir in STRIPPED {
        empty(&inside(dir))?;
        fs::remove_dir(inside(dir)).with_context(|| format!("remove {dir} from the base layer"))?;
    }
    for dir in ["/dev", "/proc", "/run", "/sys", "/tmp"] {
        empty(&inside(dir))?;
    }
    for file in [
        "/etc/hostname",
        "/etc/machine-id",
        "/etc/resolv.conf",
        "/var/cache/ldconfig/aux-cache",
    ] {
        if let Err(error) = fs::remove_file(inside(file))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("remove {file} from the base layer"));
        }
    }
    // Whoever installs more packages in a container gets them from where they like.
    fs::write(inside("/etc/apt/sources.list"), "").context("empty the base layer's /etc/apt/sources.list")
}

/// Removes what is in `dir`; the folder itself stays where it exists.
fn empty(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("read {}", dir.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", dir.display()))?;
        let path = entry.path();
        let is_dir = entry
            .file_type()
            .with_context(|| format!("look at {}", path.display()))?
            .is_dir();
        let removed = if is_dir {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Writes the tree below `root` as a layer: sorted, times zero, links kept.
fn write_tree(root: &Path, out: &Path) -> Result<()> {
    let file = File::create(out).with_context(|| format!("make {}", out.display()))?;
    let mut tree = Tree {
        root,
        tar: Builder::new(BufWriter::new(file)),
        links: HashMap::new(),
    };
    tree.add_dir(root)?;
    let mut file = tree
        .tar
        .into_inner()
        .with_context(|| format!("write {}", out.display()))?;
    file.flush().with_context(|| format!("write {}", out.display()))
}

struct Tree<'a> {
    root: &'a Path,
    tar: Builder<BufWriter<File>>,
    /// Files with several names: where the first one is.
    links: HashMap<u64, PathBuf>,
}

impl Tree<'_> {
    fn add_dir(&mut self, dir: &Path) -> Result<()> {
        let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
        let mut paths = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("read {}", dir.display()))?;
        paths.sort();
        for path in paths {
            self.add(&path)
                .with_context(|| format!("add {} to the layer", path.display()))?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let name = path.strip_prefix(self.root)?.to_owned();
        let meta = fs::symlink_metadata(path)?;
        let kind = meta.file_type();
        let mut header = Header::new_gnu();
        header.set_mode(meta.mode() & 0o7777);
        header.set_uid(meta.uid().into());
        header.set_gid(meta.gid().into());
        header.set_mtime(0);
        header.set_size(0);
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.tar.append_data(&mut header, &name, std::io::empty())?;
            return self.add_dir(path);
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return Ok(self.tar.append_link(&mut header, &name, fs::read_link(path)?)?);
        }
        if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
            bail!("it is neither a file, a folder nor a link");
        }
        if meta.nlink() > 1 {
            if let Some(first) = self.links.get(&meta.ino()) {
                header.set_entry_type(EntryType::Link);
                return Ok(self.tar.append_link(&mut header, &name, first)?);
            }
            self.links.insert(meta.ino(), name.clone());
        }
        header.set_entry_type(EntryType::Regular);
        header.set_size(meta.len());
        Ok(self.tar.append_data(&mut header, &name, File::open(path)?)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use super::*;

    #[test]
    fn packages_come_from_where_the_machine_gets_its_own() {
        let release = "ID=debian\nVERSION_CODENAME=bookworm\n";
        let targets = "bookworm-updates main http://a/debian/\nbookworm contrib http://b/\nbookworm main http://c/debian/\n";
        let expected = Suite {
            name: "bookworm".into(),
            mirror: "http://c/debian/".into(),
        };
        assert_eq!(find_suite(release, targets).unwrap(), expected);
        assert!(
            find_suite(release, "trixie main http://d/\n")
                .unwrap_err()
                .to_string()
                .contains("bookworm main")
        );
        assert!(find_suite("ID=arch\n", targets).is_err());
    }

    #[test]
    fn other_packages_are_another_layer() {
        assert_ne!(key("bookworm", &["a", "b"]), key("bookworm", &["ab"]));
        assert_ne!(key("bookworm", &["a"]), key("trixie", &["a"]));
    }

    #[test]
    fn a_layer_keeps_links_and_modes_and_is_the_same_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("bin/tool"), "content").unwrap();
        fs::hard_link(root.join("bin/tool"), root.join("bin/other")).unwrap();
        std::os::unix::fs::symlink("tool", root.join("bin/soft")).unwrap();
        let (first, second) = (dir.path().join("1.tar"), dir.path().join("2.tar"));
        write_tree(&root, &first).unwrap();
        fs::write(root.join("bin/tool"), "content").unwrap();
        write_tree(&root, &second).unwrap();
        assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());

        let mut seen = Vec::new();
        for entry in tar::Archive::new(File::open(&first).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry
                .path()
                .unwrap()
                .to_string_lossy()
                .trim_end_matches('/')
                .to_owned();
            let link = entry
                .link_name()
                .unwrap()
                .map(|link| link.to_string_lossy().into_owned());
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            seen.push((name, entry.header().entry_type(), link.unwrap_or(text)));
        }
        let expected = [
            ("bin", EntryType::Directory, ""),
            ("bin/other", EntryType::Regular, "content"),
            ("bin/soft", EntryType::Symlink, "tool"),
            ("bin/tool", EntryType::Link, "bin/other"),
        ];
        assert_eq!(
            seen,
            expected.map(|(name, kind, text)| (name.to_owned(), kind, text.to_owned()))
        );
    }
}
