//! Network namespaces: a router that enforces, and pods around it.

use std::fs::{File, OpenOptions};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use ringfence_enforcer::engine::Engine;
use ringfence_enforcer::kernel::{LocalKernel, Tools, Variant};
use ringfence_enforcer::metrics::Writes;
use ringfence_enforcer::ruleset::Family;
use ringfence_policy::{Flow, Protocol};

/// How long a packet that is not dropped takes.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long it may take where the machine is busy, for one that should not be dropped. TCP: before it is sent once more.
const TCP_PATIENCE: Duration = Duration::from_millis(900);
const UDP_PATIENCE: Duration = Duration::from_secs(5);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace that lives as long as this value.
pub(crate) struct Namespace {
    pub(crate) name: String,
    lock: String,
}

impl Namespace {
    /// A new, empty one with loopback up.
    pub(crate) fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces and writes firewalls in them: run it as root"
        );
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rf-enforcer-{}-{number}", std::process::id());
        let lock = format!("/tmp/{name}.lock");
        run(&["ip", "netns", "add", &name]);
        let namespace = Self { name, lock };
        namespace.run(&["ip", "link", "set", "lo", "up"]);
        namespace
    }

    /// Runs a command inside and returns what it prints.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        run(&[
            self.prefix()
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .as_slice(),
            command,
        ]
        .concat())
    }

    /// What starts a command inside, with a lock file of its own: the kernel's tables are its own, too.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let lock = format!("XTABLES_LOCKFILE={}", self.lock);
        [
            "env",
            &lock,
            "nsenter",
            &format!("--net=/run/netns/{}", self.name),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// The file that iptables-legacy locks.
    pub(crate) fn lock_file(&self) -> &str {
        &self.lock
    }

    /// Holds that lock, as another program would, until the value is dropped.
    pub(crate) fn hold_lock(&self) -> Flock<File> {
        let file = OpenOptions::new().create(true).append(true).open(&self.lock);
        let held = Flock::lock(file.expect("a file"), FlockArg::LockExclusive);
        held.map_err(|(_, error)| error).expect("nobody else locks it")
    }

    /// The enforcer's tools, inside.
    pub(crate) fn tools(&self, writes: &Writes) -> Tools {
        let prefix = self.prefix();
        let tools = self.inside(|| Tools::open(2, writes.clone()).expect("the kernel has sets"));
        tools.started_by(&prefix.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// An engine that knows nothing yet, inside.
    pub(crate) fn engine(&self, variant: Variant) -> (Engine<LocalKernel>, Writes) {
        let writes = Writes::default();
        (
            Engine::new(LocalKernel::new(self.tools(&writes), variant, &Family::ALL)),
            writes,
        )
    }

    /// Everything that iptables and ipset hold, without counters and comments.
    pub(crate) fn saved(&self) -> String {
        let mut saved = self.run(&["ipset", "save"]);
        for program in [
            "iptables-nft-save",
            "ip6tables-nft-save",
            "iptables-legacy-save",
            "ip6tables-legacy-save",
        ] {
            saved += &self.run(&[program]);
        }
        let counted = |line: &str| line.split(" [").next().unwrap_or(line).to_owned();
        saved
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| counted(line) + "\n")
            .collect()
    }

    /// Runs a function with this namespace's network.
    pub(crate) fn inside<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            let namespace = File::open(format!("/run/netns/{}", self.name)).expect("the namespace is there");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
            function()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().expect("the function ends"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&["ip", "netns", "del", &self.name]);
        let _ = std::fs::remove_file(&self.lock);
    }
}

/// Runs a command and returns what it prints; a failure fails the test.
fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .expect("the program is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A router with pods around it, each on a link of its own, and servers on every pod.
pub(crate) struct Lab {
    pub(crate) router: Namespace,
    pods: Vec<Namespace>,
}

/// The TCP and UDP ports that every pod serves.
pub(crate) const PORTS: [(Protocol, u16); 4] = [
    (Protocol::Tcp, 80),
    (Protocol::Tcp, 8080),
    (Protocol::Udp, 53),
    (Protocol::Udp, 8080),
];

impl Lab {
    /// A router with so many pods.
    pub(crate) fn new(pods: u8) -> Self {
        let router = Namespace::new();
        for forwarding in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            router.inside(|| set(forwarding));
        }
        let lab = Self {
            pods: (0..pods).map(|number| pod(&router, number)).collect(),
            router,
        };
        lab.pods.iter().for_each(serve);
        lab
    }

    /// The addresses of a pod.
    pub(crate) fn addresses(number: u8) -> [IpAddr; 2] {
        let hex = u16::from(number);
        [
            IpAddr::from([10, 244, number, 2]),
            IpAddr::from([0xfd00, 0x244, 0, hex, 0, 0, 0, 2]),
        ]
    }

    /// Whether a connection comes through as it should. One that should is waited for.
    pub(crate) fn obeys(&self, flow: &Flow, passes: bool) -> bool {
        let (tcp, udp) = if passes {
            (TCP_PATIENCE, UDP_PATIENCE)
        } else {
            (PATIENCE, PATIENCE)
        };
        self.connects_within(flow, tcp, udp) == passes
    }

    /// Whether a connection from the pod that has the flow's source comes through, there and back.
    pub(crate) fn connects(&self, flow: &Flow) -> bool {
        self.connects_within(flow, PATIENCE, PATIENCE)
    }

    fn connects_within(&self, flow: &Flow, tcp: Duration, udp: Duration) -> bool {
        let from = (0..)
            .zip(&self.pods)
            .find(|(number, _)| Self::addresses(*number).contains(&flow.source));
        let (_, from) = from.expect("the source is a pod");
        let to = SocketAddr::new(flow.destination, flow.port);
        from.inside(|| match flow.protocol {
            Protocol::Tcp => TcpStream::connect_timeout(&to, tcp).is_ok(),
            Protocol::Udp => ask(to, udp).is_ok(),
            Protocol::Sctp => panic!("no SCTP here"),
        })
    }

    /// The namespace of a pod.
    pub(crate) fn pod(&self, number: u8) -> &Namespace {
        &self.pods[usize::from(number)]
    }
}

fn set(sysctl: &str) {
    let (name, value) = sysctl.split_once('=').expect("name=value");
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    // /proc/sys/net shows the namespace of whoever opens it.
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

fn pod(router: &Namespace, number: u8) -> Namespace {
    let pod = Namespace::new();
    let link = format!("pod{number}");
    router.run(&[
        "ip", "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pod.name,
    ]);
    router.inside(|| set(&format!("net.ipv6.conf.{link}.accept_dad=0")));
    pod.inside(|| set("net.ipv6.conf.eth0.accept_dad=0"));
    router.run(&["ip", "link", "set", &link, "up"]);
    pod.run(&["ip", "link", "set", "eth0", "up"]);
    let [v4, v6] = Lab::addresses(number);
    let (gateway4, gateway6) = (format!("10.244.{number}.1"), format!("fd00:244:0:{number:x}::1"));
    router.run(&["ip", "address", "add", &format!("{gateway4}/24"), "dev", &link]);
    router.run(&[
        "ip",
        "address",
        "add",
        &format!("{gateway6}/64"),
        "dev",
        &link,
        "nodad",
    ]);
    pod.run(&["ip", "address", "add", &format!("{v4}/24"), "dev", "eth0"]);
    pod.run(&[
        "ip",
        "address",
        "add",
        &format!("{v6}/64"),
        "dev",
        "eth0",
        "nodad",
    ]);
    pod.run(&["ip", "route", "add", "default", "via", &gateway4]);
    pod.run(&["ip", "-6", "route", "add", "default", "via", &gateway6]);
    pod
}

/// Starts servers that answer until the test's process ends.
pub(crate) fn serve(pod: &Namespace) {
    pod.inside(|| {
        for (protocol, port) in PORTS {
            let any = SocketAddr::from(([0_u16; 8], port));
            match protocol {
                Protocol::Tcp => {
                    let listener = TcpListener::bind(any).expect("the port is free");
                    std::thread::spawn(move || listener.incoming().for_each(drop));
                }
                _ => {
                    let socket = UdpSocket::bind(any).expect("the port is free");
                    std::thread::spawn(move || echo(&socket));
                }
            }
        }
    });
}

fn echo(socket: &UdpSocket) {
    let mut buffer = [0; 16];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(&buffer[..length], from);
    }
}

fn ask(to: SocketAddr, patience: Duration) -> std::io::Result<usize> {
    let any: SocketAddr = if to.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(to)?;
    socket.send(b"hello")?;
    socket.recv(&mut [0; 16])
}
