//! A rule as iptables-save prints it, without `-A CHAIN`.

use std::fmt::{self, Display, Write as _};

use ipnet::IpNet;
use ringfence_policy::{Direction, Protocol};

use super::{PeerMatch, PortList, Rule};
use crate::names;
use crate::options::LogOptions;
use crate::ruleset::Family;

impl<S: Display> Display for Rule<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enter => f.write_str("-m conntrack ! --ctstate ESTABLISHED")?,
            Self::Revoked { mark } | Self::EnterRevoked { mark } => {
                write!(f, "-m connmark --mark {mark:#x}/{mark:#x}")?;
            }
            Self::RelatedIcmp(family) => write!(f, "-p {} -m conntrack --ctstate RELATED", family.icmp())?,
            Self::Discovery { icmp_type } => {
                write!(
                    f,
                    "-p ipv6-icmp -m icmp6 --icmpv6-type {icmp_type} -m hl --hl-eq 255"
                )?;
            }
            Self::Gate { direction, set } | Self::Range { direction, set } => {
                write!(f, "-m set --match-set {set} {}", pod_side(*direction))?;
            }
            Self::Hairpin { address } => {
                let net = IpNet::from(*address);
                write!(f, "-s {net} -d {net}")?;
            }
            Self::Branch {
                direction,
                prefix,
                chain,
            } => {
                let option = if *direction == Direction::Egress { 's' } else { 'd' };
                return write!(f, "-{option} {prefix} -g {chain}");
            }
            Self::PortBranch {
                protocol,
                span,
                chain,
            } => {
                return write!(f, "{} -g {chain}", ports_text(*protocol, &[*span]));
            }
            Self::Allow { ports, peers } => return f.write_str(&allow(ports.as_ref(), peers.as_ref())?),
            Self::Log {
                direction,
                tcp,
                options,
            } => return log(f, *direction, *tcp, options),
            Self::Reset => return f.write_str("-p tcp -j REJECT --reject-with tcp-reset"),
            Self::Reject(Family::V4) => return f.write_str("-j REJECT --reject-with icmp-admin-prohibited"),
            Self::Reject(Family::V6) => return f.write_str("-j REJECT --reject-with icmp6-adm-prohibited"),
            Self::Drop => return f.write_str("-j DROP"),
            Self::Deny { direction } => return write!(f, "-j {}", names::drop_chain(*direction)),
        }
        write!(f, " -j {}", self.target().unwrap_or("RETURN"))
    }
}

fn allow<S: Display>(ports: Option<&PortList>, peers: Option<&PeerMatch<S>>) -> Result<String, fmt::Error> {
    let mut text = String::new();
    // The ports first: to compare a few numbers is cheaper than to look an address up.
    if let Some(ports) = ports {
        write!(text, "{} ", ports_text(ports.protocol, &ports.spans))?;
    }
    if let Some(peers) = peers {
        let port = if peers.with_port { ",dst" } else { "" };
        write!(
            text,
            "-m set --match-set {} {}{port} ",
            peers.set,
            peer_side(peers.direction)
        )?;
    }
    text.push_str("-j RETURN");
    Ok(text)
}

/// The most combinations of source, destination and port that one rule's limit remembers, at about 128 bytes each. The
/// kernel drops what is one too many without a message.
const REMEMBERED: u32 = 65_536;
/// How long one is remembered that does not come again, in milliseconds. Short, so that a flood with forged sources does not
/// fill the table: at 10,000 a second it holds some 20,000.
const FORGOTTEN_AFTER: u32 = 1_000;

/// The kernel goes on with the limits of a table that is there already under the same name, even if the rule says others;
/// so the name says the limits.
fn log(f: &mut fmt::Formatter<'_>, direction: Direction, tcp: bool, options: &LogOptions) -> fmt::Result {
    let LogOptions {
        group,
        per_minute,
        burst,
    } = options;
    let (not, of) = if tcp { ("", "tcp") } else { ("! ", "other") };
    let rate = rate(*per_minute);
    // The unit's length is what it is anyway, and not printed then.
    let expire = if rate.ends_with("/sec") {
        String::new()
    } else {
        format!("--hashlimit-htable-expire {FORGOTTEN_AFTER} ")
    };
    write!(
        f,
        "{not}-p tcp -m hashlimit --hashlimit-upto {rate} --hashlimit-burst {burst} \
         --hashlimit-mode srcip,dstip,dstport --hashlimit-name ringfence-{direction}-{of}-{per_minute}-{burst} \
         --hashlimit-htable-max {REMEMBERED} {expire}\
         -j NFLOG --nflog-prefix {} --nflog-group {group}",
        log_prefix(direction)
    )
}

/// A rate as iptables prints it: it keeps the microseconds between two, and tells them in the largest unit that fits.
fn rate(per_minute: u32) -> String {
    const SECOND: u32 = 1_000_000;
    const MINUTE: u32 = 60 * SECOND;
    let period = (MINUTE / per_minute.max(1)).max(1);
    if period <= SECOND && SECOND / period >= SECOND % period {
        return format!("{}/sec", SECOND / period);
    }
    format!("{}/min", MINUTE / period)
}

/// What a logged packet's message starts with: which direction's policies dropped it.
pub fn log_prefix(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ringfence-ingress",
        Direction::Egress => "ringfence-egress",
    }
}

/// The destination's ports. One span is compared by the protocol's own match, which iptables-nft makes its kernel's own;
/// all of a protocol's ports it would not print.
fn ports_text(of: Protocol, spans: &[(u16, u16)]) -> String {
    let of = protocol(of);
    match spans {
        [span] if *span != (0, u16::MAX) => format!("-p {of} -m {of} --dport {}", span_text(*span)),
        spans => {
            let spans: Vec<_> = spans.iter().map(|span| span_text(*span)).collect();
            format!("-p {of} -m multiport --dports {}", spans.join(","))
        }
    }
}

fn span_text((first, last): (u16, u16)) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}:{last}")
    }
}

/// The side of a packet that is the pod.
pub(super) fn pod_side(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "src",
        Direction::Ingress => "dst",
    }
}

/// The side of a packet that is not the pod.
pub(super) fn peer_side(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "dst",
        Direction::Ingress => "src",
    }
}

/// How iptables and ipset call a protocol.
pub fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}
