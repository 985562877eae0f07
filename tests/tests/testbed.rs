//! The testbed's API server: started, restarted, stopped, and gone afterwards.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use ringfence_tests::testbed::{ApiServer, until};

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
    let cmdline = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
    let all = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .map(cmdline);
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
    let config = std::fs::read_to_string(server.kubeconfig()).unwrap();
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

#[test]
fn waiting_has_an_end_and_says_for_what() {
    let pause = std::time::Duration::from_millis(1);
    let error = until::<()>("the moon", std::time::Duration::from_millis(5), pause, || {
        Ok(None)
    })
    .unwrap_err();
    assert!(error.to_string().contains("the moon"));
}
