#![allow(clippy::unwrap_used)]
use super::*;
use crate::cni::protocol::Fallback;

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

#[test]
fn without_its_binary_no_entry_stays_and_it_is_copied_anew() {
    let node = Node::new();
    let bin = Node::new();
    node.write("10-n.conflist", BRIDGE);
    node.write("source", "binary");
    let keep = || {
        keep(
            &node.path("source"),
            bin.folder.path(),
            node.folder.path(),
            &entry(),
        )
    };
    assert_eq!(keep().unwrap(), [bin.path(PLUGIN), node.path("10-n.conflist")]);
    fs::remove_file(bin.path(PLUGIN)).unwrap();
    assert_eq!(keep().unwrap(), [bin.path(PLUGIN)]);
    fs::remove_file(bin.path(PLUGIN)).unwrap();
    fs::remove_file(node.path("source")).unwrap();
    assert!(keep().is_err());
    assert_eq!(node.read("10-n.conflist"), BRIDGE, "pods start again");
}

#[test]
fn the_binary_stays_where_a_file_names_it_in_words_that_are_not_ours() {
    let node = Node::new();
    let bin = Node::new();
    bin.write(PLUGIN, "binary");
    node.write("10-half.conflist", r#"{"plugins": [{"type": "ringfence-cni"}"#);
    let error = remove(node.folder.path(), bin.folder.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("10-half.conflist"), "{error}");
    assert_eq!(bin.read(PLUGIN), "binary");
}

#[test]
fn a_folder_is_no_configuration_and_a_broken_file_keeps_no_other_from_being_cleaned() {
    let node = Node::new();
    let bin = Node::new();
    bin.write(PLUGIN, "binary");
    fs::create_dir(node.path("00-old.conf")).unwrap();
    node.write("10-n.conflist", BRIDGE);
    node.keep().unwrap();
    std::os::unix::fs::symlink("/nowhere", node.path("05-broken.conflist")).unwrap();
    assert!(remove(node.folder.path(), bin.folder.path()).is_err());
    assert_eq!(node.read("10-n.conflist"), BRIDGE);
}

#[test]
fn a_file_keeps_its_owner() {
    let node = Node::new();
    node.write("10-n.conflist", BRIDGE);
    chown(node.path("10-n.conflist"), Some(1234), Some(1234)).expect("tests of files run as root");
    node.keep().unwrap();
    let metadata = fs::metadata(node.path("10-n.conflist")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1234, 1234));
}
