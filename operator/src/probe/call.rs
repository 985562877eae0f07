//! `ringfence-operator probe-call`: tries servers by an allowed and by a denied port, and tells what it met.
//!
//! A network plugin needs a moment until a new pod is behind its policies, and a lost packet looks like a denied one. So a
//! way (an address and a protocol) is tried in turns of one denied and one allowed call. A denied call that fails between
//! two allowed ones that succeed is a denial; three in a row settle the way. One that arrives begins the count anew,
//! until time is up: what arrived in the last turns is a leak then, and what arrived only earlier was open at the start.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use ringfence_telemetry::shutdown;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::answer::{Heard, Met, Target, write};
use crate::error::Error;

/// How many denials in a row settle a way.
const DENIALS: u32 = 3;
/// How long a call waits. Below the second after which TCP sends its first packet again.
const PATIENCE: Duration = Duration::from_millis(800);
/// The pause after a turn in which nothing had to be waited for.
const PAUSE: Duration = Duration::from_millis(200);

/// What to try.
#[derive(Clone, Debug, Args)]
pub struct CallArgs {
    /// A server's addresses; repeat it
    #[arg(long = "target", value_name = "ADDRESS,...", required = true)]
    pub targets: Vec<Target>,
    /// The port that every policy allows
    #[arg(long, value_name = "PORT")]
    pub allowed: u16,
    /// The port that a policy denies
    #[arg(long, value_name = "PORT")]
    pub denied: u16,
    /// What the servers answer
    #[arg(long, value_name = "TEXT")]
    pub token: String,
    /// How long to try, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub seconds: u64,
    /// Where to write what was met
    #[arg(long, value_name = "FILE", default_value = "/dev/termination-log")]
    pub answer: PathBuf,
}

/// Tries everything and writes the answer.
///
/// # Errors
///
/// When the answer cannot be written.
pub async fn main(args: &CallArgs) -> Result<(), Error> {
    let told_to_stop = shutdown::on_signals().map_err(Error::Signals)?;
    let heard = tokio::select! {
        () = told_to_stop.cancelled() => return Ok(()),
        heard = call(args) => heard,
    };
    let answer =
        write(&heard).map_err(|cause| Error::Probe(format!("the answer cannot be written: {cause}")))?;
    tokio::fs::write(&args.answer, answer)
        .await
        .map_err(|error| Error::Probe(format!("write {}: {error}", args.answer.display())))
}

/// What is met at each target.
pub async fn call(args: &CallArgs) -> Vec<Heard> {
    let until = Instant::now() + Duration::from_secs(args.seconds);
    join_all(args.targets.iter().map(|target| async move {
        let ways = target.0.iter().flat_map(|address| {
            [Transport::Tcp, Transport::Udp].map(|transport| Way {
                address: *address,
                transport,
            })
        });
        let met = join_all(ways.map(|way| try_way(args, way, until))).await;
        let worst = met.into_iter().max_by_key(|heard| heard.met);
        // A server without an address was not reached.
        worst.unwrap_or(Heard {
            met: Met::Lost,
            way: String::new(),
        })
    }))
    .await
}

#[derive(Clone, Copy, Debug)]
enum Transport {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug)]
struct Way {
    address: IpAddr,
    transport: Transport,
}

impl Way {
    fn text(self, port: u16) -> String {
        let to = SocketAddr::new(self.address, port);
        match self.transport {
            Transport::Tcp => format!("TCP {to}"),
            Transport::Udp => format!("UDP {to}"),
        }
    }
}

async fn try_way(args: &CallArgs, way: Way, until: Instant) -> Heard {
    let mut record = Record::default();
    while !record.is_settled() && Instant::now() < until {
        let denied = arrives(way, args.denied, &args.token).await;
        let allowed = arrives(way, args.allowed, &args.token).await;
        record.turn(denied, allowed);
        if denied || !allowed {
            tokio::time::sleep(PAUSE).await;
        }
    }
    let met = record.met();
    let way = match met {
        Met::Right => String::new(),
        Met::Lost => way.text(args.allowed),
        Met::Leak | Met::OpenAtStart => way.text(args.denied),
    };
    Heard { met, way }
}

/// What the turns of a way showed so far.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// Turns so far.
    turns: u32,
    /// Whether the allowed call of the last turn arrived.
    allowed: bool,
    /// Denials in a row.
    denials: u32,
    /// The last turn in which a denied call arrived.
    leaked: Option<u32>,
}

impl Record {
    fn turn(&mut self, denied_arrived: bool, allowed_arrived: bool) {
        self.turns += 1;
        if denied_arrived {
            self.leaked = Some(self.turns);
            self.denials = 0;
        } else if self.allowed && allowed_arrived {
            self.denials += 1;
        }
        self.allowed = allowed_arrived;
    }

    fn is_settled(&self) -> bool {
        self.denials >= DENIALS
    }

    fn met(&self) -> Met {
        match self.leaked {
            None if self.is_settled() => Met::Right,
            None => Met::Lost,
            Some(_) if self.is_settled() => Met::OpenAtStart,
            Some(turn) if self.turns - turn < DENIALS => Met::Leak,
            Some(_) => Met::Lost,
        }
    }
}

/// Whether the server at this port answers as the probe's own would.
async fn arrives(way: Way, port: u16, token: &str) -> bool {
    let to = SocketAddr::new(way.address, port);
    let answer = async {
        match way.transport {
            Transport::Tcp => ask_tcp(to, token).await,
            Transport::Udp => ask_udp(to, token).await,
        }
    };
    matches!(timeout(PATIENCE, answer).await, Ok(Ok(true)))
}

async fn ask_tcp(to: SocketAddr, token: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(to).await?;
    let mut answer = vec![0; token.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer == token.as_bytes())
}

async fn ask_udp(to: SocketAddr, token: &str) -> std::io::Result<bool> {
    let any = match to {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    socket.send(token.as_bytes()).await?;
    let mut answer = vec![0; token.len() + 1];
    let length = socket.recv(&mut answer).await?;
    Ok(&answer[..length] == token.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::probe::serve::{self, ServeArgs};

    /// A turn: whether the denied call arrived, and the allowed one.
    type Turn = (bool, bool);
    const GOOD: Turn = (false, true);
    const LEAK: Turn = (true, true);
    const NOTHING: Turn = (false, false);

    fn met(turns: &[Turn]) -> Met {
        let mut record = Record::default();
        for (denied, allowed) in turns {
            assert!(!record.is_settled(), "nobody tries on");
            record.turn(*denied, *allowed);
        }
        record.met()
    }

    #[test]
    fn a_denial_counts_between_two_allowed_calls_only() {
        assert_eq!(met(&[GOOD, GOOD, GOOD]), Met::Lost);
        assert_eq!(met(&[GOOD, GOOD, GOOD, GOOD]), Met::Right);
        assert_eq!(met(&[NOTHING; 9]), Met::Lost);
        assert_eq!(met(&[GOOD, NOTHING, GOOD, NOTHING, GOOD, NOTHING]), Met::Lost);
        assert_eq!(met(&[NOTHING, NOTHING, GOOD, GOOD, GOOD, GOOD]), Met::Right);
    }

    #[test]
    fn what_arrives_at_first_is_told_from_what_arrives_to_the_end() {
        assert_eq!(met(&[LEAK, LEAK, GOOD, GOOD, GOOD]), Met::OpenAtStart);
        assert_eq!(met(&[LEAK; 6]), Met::Leak);
        assert_eq!(met(&[GOOD, GOOD, GOOD, LEAK]), Met::Leak);
        assert_eq!(met(&[LEAK, GOOD, GOOD]), Met::Leak);
        assert_eq!(met(&[LEAK, NOTHING, NOTHING, NOTHING]), Met::Lost);
    }

    fn free_port() -> u16 {
        let any = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        any.local_addr().unwrap().port()
    }

    fn args(allowed: u16, denied: u16, targets: &[&str]) -> CallArgs {
        CallArgs {
            targets: targets.iter().map(|target| target.parse().unwrap()).collect(),
            allowed,
            denied,
            token: "word".to_owned(),
            seconds: 2,
            answer: PathBuf::new(),
        }
    }

    #[tokio::test]
    async fn a_server_is_met_as_it_is() {
        let (first, second, nobody) = (free_port(), free_port(), free_port());
        let server = ServeArgs {
            ports: vec![first, second],
            token: "word".to_owned(),
        };
        let serving = tokio::spawn(async move { serve::main(&server).await });
        let here = ["127.0.0.1", "127.0.0.1"];
        let met = |heard: Vec<Heard>| heard.into_iter().map(|heard| heard.met).collect::<Vec<_>>();
        let closed = call(&args(first, nobody, &here)).await;
        assert_eq!(met(closed), [Met::Right; 2]);
        let open = call(&args(first, second, &here)).await;
        assert!(open[0].way.ends_with(&format!("127.0.0.1:{second}")), "{open:?}");
        assert_eq!(met(open), [Met::Leak; 2]);
        assert_eq!(met(call(&args(nobody, nobody, &here)).await), [Met::Lost; 2]);
        // Somebody else who answers at that address is not the server.
        let mut stranger = args(first, nobody, &here);
        stranger.token = "else".to_owned();
        assert_eq!(met(call(&stranger).await), [Met::Lost; 2]);
        serving.abort();
    }

    #[test]
    fn a_leak_without_any_allowed_call_is_one_too() {
        assert_eq!(met(&[(true, false); 4]), Met::Leak);
    }
}
