//! The images every node holds: pause and the test server (one program), and CoreDNS.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};

use super::build::{AGNHOST, Binaries, COREDNS, DRAFTS};
use super::command::run;
use super::draft::Draft;
use super::node::ctr;
use super::paths::NodePaths;
use crate::images::{ImageSpec, LayerFile, write_archive};

/// The sandbox image.
pub(crate) const PAUSE: &str = "ringfence.dev/pause:testbed";
/// The test server under the project's own name.
pub const AGNHOST_IMAGE: &str = "ringfence.dev/agnhost:testbed";
/// The test server under the name the upstream end-to-end suite asks for.
pub const AGNHOST_UPSTREAM: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
/// CoreDNS.
pub(crate) const COREDNS_IMAGE: &str = "ringfence.dev/coredns:testbed";

/// Writes the archives of the cluster's own images beside the binaries, unless they are there.
pub(crate) fn archives(binaries: &Binaries) -> Result<Vec<PathBuf>> {
    let agnhost = binaries.path(AGNHOST);
    let coredns = binaries.path(COREDNS);
    let wanted = [
        (
            agnhost.with_file_name("pause.tar"),
            &agnhost,
            vec![PAUSE],
            vec!["/agnhost", "pause"],
        ),
        (
            agnhost.with_file_name("agnhost.tar"),
            &agnhost,
            vec![AGNHOST_IMAGE, AGNHOST_UPSTREAM],
            vec!["/agnhost"],
        ),
        (
            coredns.with_file_name("coredns.tar"),
            &coredns,
            vec![COREDNS_IMAGE],
            vec!["/coredns"],
        ),
    ];
    let mut paths = Vec::new();
    for (archive, program, names, entrypoint) in wanted {
        if !archive.exists() {
            write(&archive, program, &names, &entrypoint)?;
        }
        paths.push(archive);
    }
    Ok(paths)
}

fn write(archive: &Path, program: &Path, names: &[&str], entrypoint: &[&str]) -> Result<()> {
    let spec = ImageSpec {
        names: names.iter().map(ToString::to_string).collect(),
        entrypoint: entrypoint.iter().map(ToString::to_string).collect(),
        user: "0".to_owned(),
        base: None,
        files: vec![LayerFile {
            source: program.to_owned(),
            target: entrypoint[0].to_owned(),
            mode: 0o755,
        }],
    };
    let scratch = Draft::new(archive.parent().unwrap_or(archive), DRAFTS)?;
    let draft = scratch.path().join("image.tar");
    write_archive(&spec, &draft)?;
    fs::rename(&draft, archive).with_context(|| format!("put {} in place", archive.display()))
}

/// Loads archives on every node, nodes side by side.
pub(crate) fn load(nodes: &[NodePaths], archives: &[PathBuf]) -> Result<()> {
    thread::scope(|scope| {
        let jobs: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(|| load_on(node, archives)))
            .collect();
        for job in jobs {
            job.join().map_err(|_| anyhow!("loading images panicked"))??;
        }
        Ok(())
    })
}

fn load_on(node: &NodePaths, archives: &[PathBuf]) -> Result<()> {
    for archive in archives {
        run(ctr(node).args(["images", "import"]).arg(archive))
            .with_context(|| format!("load image {} on {}", archive.display(), node.root().display()))?;
    }
    Ok(())
}
