//! The testbed's API server: started, restarted, stopped, and gone afterwards; and what a cluster's dead predecessor
//! leaves, removed. Takes root.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};

use ringfence_tests::testbed::{ApiServer, Cluster, Silent, until};

/// Runs `command`; gives whether it went well and what it said.
fn output(mut command: Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn processes_that_mention(text: &str) -> usize {
    let cmdline = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
    let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok).map(cmdline);
    all.filter(|line| String::from_utf8_lossy(line).contains(text))
        .count()
}

/// One at a time: two cores start one API server at a time well enough.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn objects_survive_a_restart_and_nothing_survives_the_end() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut server = ApiServer::start().unwrap();
    let folder = server.kubeconfig().parent().unwrap().to_owned();
    let (fine, said) = output(server.kubectl(["create", "namespace", "kept"]));
    assert!(fine, "{said}");

    server.stop().unwrap();
    let (fine, _) = output(server.kubectl(["get", "namespace", "kept", "--request-timeout=2s"]));
    assert!(!fine, "a stopped API server answered");

    server.restart().unwrap();
    let (fine, said) = output(server.kubectl(["get", "namespace", "kept"]));
    assert!(fine, "{said}");

    let text = folder.to_str().unwrap().to_owned();
    assert!(processes_that_mention(&text) >= 2);
    drop(server);
    assert!(!folder.exists());
    assert_eq!(processes_that_mention(&text), 0);
}

#[test]
fn it_outlives_the_thread_that_started_it() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let server = std::thread::spawn(|| ApiServer::start().unwrap()).join().unwrap();
    // The kernel would send its signal at once; two answers in a row are no luck.
    for _ in 0..2 {
        let (fine, said) = output(server.kubectl(["get", "--raw=/readyz"]));
        assert!(fine, "{said}");
    }
}

#[test]
fn it_verifies_and_is_verified() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let server = ApiServer::start().unwrap();
    let config = fs::read_to_string(server.kubeconfig()).unwrap();
    assert!(!config.contains("insecure-skip-tls-verify") && config.contains("certificate-authority-data"));
    let stranger = server.kubectl([
        "--kubeconfig=/dev/null",
        "--token=x",
        "get",
        "namespaces",
        "--server",
        &server.url(),
    ]);
    let (fine, said) = output(stranger);
    assert!(!fine && said.contains("certificate"), "{said}");
}

/// What `up` leaves when it is killed half way: a namespace, a cgroup, a pinned mount, and processes of which one was
/// never written down. None of it is found through a state file: there is none yet.
#[test]
fn what_a_killed_start_leaves_is_removed_and_nothing_else() {
    let name = format!("t-{}", std::process::id());
    let state = format!("/tmp/ringfence-{name}");
    let netns = format!("rf-{name}-node-1");
    fs::create_dir_all(format!("{state}/ns")).unwrap();
    well(&["ip", "netns", "add", &netns]);
    well(&["mount", "--bind", &format!("{state}/ns"), &format!("{state}/ns")]);
    let cgroup = make_cgroup(&netns);
    let mut marked = sleeper(Command::new("sleep").env("RINGFENCE_TESTBED", &state));
    let mut inside = sleeper(Command::new("ip").args(["netns", "exec", &netns, "sleep"]));
    let mut bystander = sleeper(Command::new("sleep").env("RINGFENCE_TESTBED", format!("{state}-other")));

    assert!(Cluster::remove(&name, &Silent).unwrap());
    assert!(!marked.wait().unwrap().success() && !inside.wait().unwrap().success());
    assert!(
        bystander.try_wait().unwrap().is_none(),
        "a process of another cluster was ended"
    );
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    for path in [Path::new(&state), &Path::new("/run/netns").join(&netns), &cgroup] {
        assert!(!path.exists(), "{} is left", path.display());
    }
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(&state)
    );
    assert!(
        !Cluster::remove(&name, &Silent).unwrap(),
        "there was something left to remove"
    );
}

fn sleeper(command: &mut Command) -> Child {
    command.arg("600").spawn().unwrap()
}

fn well(line: &[&str]) {
    assert!(
        Command::new(line[0]).args(&line[1..]).status().unwrap().success(),
        "{line:?}"
    );
}

/// A cgroup with a child, in the first hierarchy there is.
fn make_cgroup(name: &str) -> std::path::PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let hierarchy = mounts
        .lines()
        .find(|line| line.starts_with("cgroup"))
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap();
    let cgroup = Path::new(hierarchy).join(name);
    fs::create_dir_all(cgroup.join("kubepods")).unwrap();
    cgroup
}

#[test]
fn a_cluster_that_is_not_up_is_not_attached_to() {
    let error = Cluster::attach("never-started").unwrap_err().to_string();
    assert!(error.contains("cluster up --name never-started"), "{error}");
}

#[test]
fn waiting_has_an_end_and_says_for_what() {
    let pause = std::time::Duration::from_millis(1);
    let error = until::<()>("the moon", std::time::Duration::from_millis(5), pause, || {
        Ok(None)
    })
    .unwrap_err();
    assert!(error.to_string().contains("the moon"));
}
