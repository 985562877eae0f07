//! Probes against real sockets in a network namespace of the test's own. Takes root.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use ringfence_tests::probe::{self, Outcome};
use ringfence_tests::testbed::exec_in_netns;

const TIMEOUT: Duration = Duration::from_millis(500);
/// For what is answered, by a thread that may have to wait for its turn.
const PATIENT: Duration = Duration::from_secs(10);

/// A namespace with loopback and a cable whose other end nobody listens at.
struct Namespace(String);

impl Namespace {
    fn new(test: &str) -> Self {
        let name = format!("rf-probe-{}-{test}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self(name);
        for arguments in [
            "link set lo up",
            "link add quiet type veth peer name far",
            "link set far up",
            "addr add 198.18.0.1/24 dev quiet",
            "link set quiet up",
            // The neighbour exists and never answers.
            "neigh add 198.18.0.9 lladdr 02:00:00:00:00:09 dev quiet",
        ] {
            let mut all = vec!["-n", &namespace.0];
            all.extend(arguments.split(' '));
            ip(&all);
        }
        namespace
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.0]);
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn listen(netns: &Path) -> (TcpListener, SocketAddr) {
    let listener = exec_in_netns(netns, || TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A UDP socket in the namespace that gives one answer.
fn answer_once(netns: &Path, answer: impl FnOnce(&[u8]) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let socket = exec_in_netns(netns, || UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&answer(&buffer[..length]), from).unwrap();
    });
    address
}

fn as_response(query: &[u8]) -> Vec<u8> {
    let mut response = query.to_vec();
    response[2] |= 0x80;
    response
}

#[test]
fn tcp_tells_open_refused_silent_and_unreachable_apart() {
    let namespace = Namespace::new("tcp");
    let netns = namespace.path();
    let (listener, open) = listen(&netns);
    assert_eq!(probe::tcp_connect(&netns, open, TIMEOUT).unwrap(), Outcome::Open);
    // Not the listener's port: a process that another test starts at this moment holds on to it until it executes.
    drop(listener);
    let closed = SocketAddr::new(open.ip(), 9);
    assert_eq!(
        probe::tcp_connect(&netns, closed, TIMEOUT).unwrap(),
        Outcome::Refused
    );
    let silent = "198.18.0.9:80".parse().unwrap();
    assert_eq!(
        probe::tcp_connect(&netns, silent, TIMEOUT).unwrap(),
        Outcome::TimedOut
    );
    let nowhere = "192.0.2.1:80".parse().unwrap();
    assert!(matches!(
        probe::tcp_connect(&netns, nowhere, TIMEOUT).unwrap(),
        Outcome::Unreachable(_)
    ));
}

#[test]
fn a_listener_outside_the_namespace_is_not_met() {
    let namespace = Namespace::new("inside");
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = outside.local_addr().unwrap();
    assert_eq!(
        probe::tcp_connect(&namespace.path(), address, TIMEOUT).unwrap(),
        Outcome::Refused
    );
}

#[test]
fn udp_tells_an_echo_from_a_closed_port_and_from_silence() {
    let namespace = Namespace::new("udp");
    let netns = namespace.path();
    let echo = answer_once(&netns, |question| {
        question.strip_prefix(b"echo ").unwrap().to_vec()
    });
    assert_eq!(probe::udp_echo(&netns, echo, PATIENT).unwrap(), Outcome::Open);
    let other = answer_once(&netns, |_| b"something else".to_vec());
    assert!(matches!(
        probe::udp_echo(&netns, other, PATIENT).unwrap(),
        Outcome::Unreachable(_)
    ));
    let closed = "127.0.0.1:9".parse().unwrap();
    assert_eq!(
        probe::udp_echo(&netns, closed, PATIENT).unwrap(),
        Outcome::Refused
    );
    let silent = "198.18.0.9:53".parse().unwrap();
    assert_eq!(
        probe::udp_echo(&netns, silent, TIMEOUT).unwrap(),
        Outcome::TimedOut
    );
}

#[test]
fn dns_is_asked_over_both_transports() {
    let namespace = Namespace::new("dns");
    let netns = namespace.path();
    let udp = answer_once(&netns, as_response);
    assert_eq!(
        probe::dns_udp(&netns, udp, "kubernetes.default.svc", PATIENT).unwrap(),
        Outcome::Open
    );
    let (listener, tcp) = listen(&netns);
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query).unwrap();
        stream
            .write_all(&[&length[..], &as_response(&query)].concat())
            .unwrap();
    });
    assert_eq!(
        probe::dns_tcp(&netns, tcp, "kubernetes.default.svc", PATIENT).unwrap(),
        Outcome::Open
    );
}

#[test]
fn an_http_error_is_an_error() {
    let namespace = Namespace::new("http");
    let netns = namespace.path();
    let (listener, address) = listen(&netns);
    thread::spawn(move || {
        for answer in ["HTTP/1.1 200 OK\r\n\r\nfine", "HTTP/1.1 500 Oops\r\n\r\n"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 512];
            let _ = stream.read(&mut buffer).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    assert_eq!(probe::http_get(&netns, address, "/x").unwrap(), "fine");
    let error = probe::http_get(&netns, address, "/x").unwrap_err().to_string();
    assert!(error.contains("500 Oops") && error.contains("/x"), "{error}");
}

#[test]
fn a_namespace_that_is_not_there_is_named() {
    let error = probe::tcp_connect(
        Path::new("/run/netns/rf-none"),
        "127.0.0.1:1".parse().unwrap(),
        TIMEOUT,
    );
    assert!(format!("{:#}", error.unwrap_err()).contains("/run/netns/rf-none"));
}
