//! The archive format: an OCI image layout in a tar, with Docker's `manifest.json` beside it so that every engine can
//! load it. The same input gives the same bytes: times are zero, owners are root, order is the caller's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// What an image consists of.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// Full names with tags, such as `ringfence.dev/operator:dev`. At least one.
    pub names: Vec<String>,
    /// Program and arguments that a container starts with.
    pub entrypoint: Vec<String>,
    /// Numeric user that a container runs as.
    pub user: String,
    /// An uncompressed layer tar to build on; without one the image starts empty.
    pub base: Option<PathBuf>,
    /// Files of the image's own layer.
    pub files: Vec<LayerFile>,
}

/// One file of a layer.
#[derive(Debug, Clone)]
pub struct LayerFile {
    /// Where its content comes from.
    pub source: PathBuf,
    /// Absolute path inside the image.
    pub target: String,
    /// Permission bits.
    pub mode: u32,
}

/// A piece of content and what it is addressed by.
struct Blob {
    path: PathBuf,
    digest: String,
    size: u64,
}

impl Blob {
    fn measure(path: PathBuf) -> Result<Self> {
        let mut file = BufReader::new(open(&path)?);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut size = 0;
        loop {
            let n = file
                .read(&mut buffer)
                .with_context(|| format!("read {}", path.display()))?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            size += n as u64;
        }
        Ok(Self {
            path,
            digest: hex(&hash.finalize()),
            size,
        })
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.size})
    }

    fn entry(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const SEARCH_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Writes the image as an archive to `out`, replacing what is there.
///
/// # Errors
/// When a file cannot be read or written, or a name has no tag.
pub fn write_archive(spec: &ImageSpec, out: &Path) -> Result<()> {
    ensure!(!spec.names.is_empty(), "image {} has no name", out.display());
    let scratch = tempfile::tempdir().context("make a temporary folder")?;
    let own_layer = scratch.path().join("layer.tar");
    write_layer(&spec.files, &own_layer)?;
    let mut layers = Vec::new();
    for path in spec.base.iter().chain([&own_layer]) {
        layers.push(Blob::measure(path.clone())?);
    }
    let config = small_blob(scratch.path(), "config", &config_json(spec, &layers)?)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(CONFIG),
        "layers": layers.iter().map(|layer| layer.descriptor(LAYER)).collect::<Vec<_>>(),
    });
    let manifest = small_blob(scratch.path(), "manifest", &manifest)?;
    let file = File::create(out).with_context(|| format!("make {}", out.display()))?;
    let mut tar = Builder::new(BufWriter::new(file));
    add_bytes(&mut tar, "oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
    add_bytes(&mut tar, "index.json", &index_json(spec, &manifest)?)?;
    add_bytes(&mut tar, "manifest.json", &docker_json(spec, &config, &layers))?;
    for blob in layers.iter().chain([&config, &manifest]) {
        let mut content = BufReader::new(open(&blob.path)?);
        append(
            &mut tar,
            &blob.entry(),
            EntryType::Regular,
            0o644,
            blob.size,
            &mut content,
        )?;
    }
    let mut file = tar
        .into_inner()
        .with_context(|| format!("write {}", out.display()))?;
    file.flush().with_context(|| format!("write {}", out.display()))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("open {}", path.display()))
}

fn small_blob(dir: &Path, name: &str, value: &Value) -> Result<Blob> {
    let path = dir.join(name);
    fs::write(&path, value.to_string()).with_context(|| format!("write {}", path.display()))?;
    Blob::measure(path)
}

/// A layer of `files` and the folders they lie in.
fn write_layer(files: &[LayerFile], out: &Path) -> Result<()> {
    let file = File::create(out).with_context(|| format!("make {}", out.display()))?;
    let mut tar = Builder::new(BufWriter::new(file));
    for dir in parents(files) {
        append(
            &mut tar,
            &format!("{dir}/"),
            EntryType::Directory,
            0o755,
            0,
            &mut io::empty(),
        )?;
    }
    for LayerFile { source, target, mode } in files {
        let mut content = open(source)?;
        let size = content
            .metadata()
            .with_context(|| format!("look at {}", source.display()))?
            .len();
        append(
            &mut tar,
            target.trim_start_matches('/'),
            EntryType::Regular,
            *mode,
            size,
            &mut content,
        )?;
    }
    let mut file = tar
        .into_inner()
        .with_context(|| format!("write {}", out.display()))?;
    file.flush().with_context(|| format!("write {}", out.display()))
}

/// Every folder above the targets, outermost first.
fn parents(files: &[LayerFile]) -> BTreeSet<String> {
    let mut dirs = BTreeSet::new();
    for file in files {
        let path = Path::new(file.target.trim_start_matches('/'));
        let above = path
            .ancestors()
            .skip(1)
            .map(|dir| dir.to_string_lossy().into_owned());
        dirs.extend(above.filter(|dir| !dir.is_empty()));
    }
    dirs
}

fn append<W: Write>(
    tar: &mut Builder<W>,
    name: &str,
    kind: EntryType,
    mode: u32,
    size: u64,
    content: &mut dyn Read,
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, name, content)
        .with_context(|| format!("write entry {name}"))
}

fn add_bytes<W: Write>(tar: &mut Builder<W>, name: &str, value: &Value) -> Result<()> {
    let text = value.to_string();
    append(
        tar,
        name,
        EntryType::Regular,
        0o644,
        text.len() as u64,
        &mut text.as_bytes(),
    )
}

fn config_json(spec: &ImageSpec, layers: &[Blob]) -> Result<Value> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("images for {other} are not known here: add its OCI name"),
    };
    Ok(json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": spec.entrypoint, "User": spec.user, "Env": [SEARCH_PATH], "WorkingDir": "/"},
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| format!("sha256:{}", layer.digest)).collect::<Vec<_>>(),
        },
    }))
}

/// One entry per name: containerd takes the name from its own annotation, others from the tag.
fn index_json(spec: &ImageSpec, manifest: &Blob) -> Result<Value> {
    let mut manifests = Vec::new();
    for name in &spec.names {
        let Some((_, tag)) = name.rsplit_once(':') else {
            bail!("image name {name} has no tag: write it as NAME:TAG");
        };
        let mut entry = manifest.descriptor(MANIFEST);
        entry["annotations"] =
            json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
        manifests.push(entry);
    }
    Ok(json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
}

fn docker_json(spec: &ImageSpec, config: &Blob, layers: &[Blob]) -> Value {
    json!([{
        "Config": config.entry(),
        "RepoTags": spec.names,
        "Layers": layers.iter().map(Blob::entry).collect::<Vec<_>>(),
    }])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    fn spec(dir: &Path) -> ImageSpec {
        let (program, base) = (dir.join("program"), dir.join("base.tar"));
        fs::write(&program, "binary").unwrap();
        let inherited = LayerFile {
            source: program.clone(),
            target: "/etc/inherited".into(),
            mode: 0o644,
        };
        write_layer(&[inherited], &base).unwrap();
        ImageSpec {
            names: vec!["ringfence.dev/a:1".into(), "ringfence.dev/b:2".into()],
            entrypoint: vec!["/opt/bin/program".into()],
            user: "65532".into(),
            base: Some(base),
            files: vec![LayerFile {
                source: program,
                target: "/opt/bin/program".into(),
                mode: 0o755,
            }],
        }
    }

    fn entries(tar: &[u8]) -> BTreeMap<String, (Header, Vec<u8>)> {
        let mut all = BTreeMap::new();
        for entry in tar::Archive::new(tar).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            all.insert(name, (entry.header().clone(), content));
        }
        all
    }

    fn written(spec: &ImageSpec, out: &Path) -> BTreeMap<String, (Header, Vec<u8>)> {
        write_archive(spec, out).unwrap();
        entries(&fs::read(out).unwrap())
    }

    /// The content a descriptor points to, checked against its digest and size.
    fn follow(archive: &BTreeMap<String, (Header, Vec<u8>)>, descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"]
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap();
        let content = archive[&format!("blobs/sha256/{digest}")].1.clone();
        assert_eq!(hex(&Sha256::digest(&content)), digest);
        assert_eq!(descriptor["size"], content.len());
        content
    }

    fn json_of(content: &[u8]) -> Value {
        serde_json::from_slice(content).unwrap()
    }

    #[test]
    fn every_reference_leads_to_the_content_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let archive = written(&spec(dir.path()), &dir.path().join("image.tar"));
        assert_eq!(json_of(&archive["oci-layout"].1)["imageLayoutVersion"], "1.0.0");
        let index = json_of(&archive["index.json"].1);
        let names: Vec<&Value> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| &m["annotations"])
            .collect();
        assert_eq!(names[0]["io.containerd.image.name"], "ringfence.dev/a:1");
        assert_eq!(names[1]["org.opencontainers.image.ref.name"], "2");

        let manifest = json_of(&follow(&archive, &index["manifests"][1]));
        let config = json_of(&follow(&archive, &manifest["config"]));
        assert_eq!(config["config"]["User"], "65532");
        assert_eq!(config["config"]["Entrypoint"], json!(["/opt/bin/program"]));
        let layers = manifest["layers"].as_array().unwrap();
        let digests: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        assert_eq!(
            config["rootfs"]["diff_ids"]
                .as_array()
                .unwrap()
                .iter()
                .collect::<Vec<_>>(),
            digests
        );

        assert!(entries(&follow(&archive, &layers[0])).contains_key("etc/inherited"));
        let own = entries(&follow(&archive, &layers[1]));
        assert_eq!(
            own.keys().collect::<Vec<_>>(),
            ["opt/", "opt/bin/", "opt/bin/program"]
        );
        let (header, content) = &own["opt/bin/program"];
        assert_eq!(
            (header.mode().unwrap(), content.as_slice()),
            (0o755, b"binary".as_slice())
        );
    }

    #[test]
    fn older_engines_find_their_own_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let archive = written(&spec(dir.path()), &dir.path().join("image.tar"));
        let docker = &json_of(&archive["manifest.json"].1)[0];
        assert_eq!(
            docker["RepoTags"],
            json!(["ringfence.dev/a:1", "ringfence.dev/b:2"])
        );
        let layers = docker["Layers"].as_array().unwrap();
        for path in layers.iter().chain([&docker["Config"]]) {
            assert!(archive.contains_key(path.as_str().unwrap()), "{path}");
        }
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("1.tar"), dir.path().join("2.tar"));
        write_archive(&spec(dir.path()), &first).unwrap();
        write_archive(&spec(dir.path()), &second).unwrap();
        assert!(fs::read(first).unwrap() == fs::read(second).unwrap());
    }

    #[test]
    fn a_name_without_a_tag_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let spec = ImageSpec {
            names: vec!["ringfence.dev/a".into()],
            ..spec(dir.path())
        };
        let error = write_archive(&spec, &dir.path().join("image.tar")).unwrap_err();
        assert!(error.to_string().contains("ringfence.dev/a has no tag"));
    }
}
