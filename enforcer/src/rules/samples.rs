//! One rule of every kind and form, for the tests that hold text, parser and kernel together.

use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_policy::{Direction, Protocol};

use super::{DISCOVERY, PeerMatch, PortList, Rule};
use crate::names::{SetId, SetName, branch_chain, isolation_chain, port_chain};
use crate::options::{DEFAULT_REVOKED_MARK, LogOptions};
use crate::ruleset::Family;

/// As long as a policy's digest is.
const ID: &str = "abcdefghijklmnopqrst";

/// One rule of every kind and form.
pub fn samples(family: Family) -> Vec<Rule<SetName>> {
    let address: IpAddr = match family {
        Family::V4 => [10, 244, 1, 7].into(),
        Family::V6 => [0xfd00, 0x10, 0, 0, 0, 0, 0, 0x17].into(),
    };
    let mut rules = connections(family);
    rules.extend([
        Rule::Hairpin { address },
        Rule::Allow {
            ports: None,
            peers: None,
        },
    ]);
    rules.push(allow(Protocol::Tcp, &[(80, 80), (90, 99), (0, 65535)]));
    rules.push(allow(Protocol::Udp, &[(53, 53)]));
    rules.push(allow(Protocol::Sctp, &[(38412, 38412)]));
    // Ranges at both ends, and of everything.
    for span in [
        (0, 0),
        (0, 1023),
        (1024, 65535),
        (65535, 65535),
        (1, 65535),
        (0, 65535),
    ] {
        rules.extend([Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| allow(protocol, &[span])));
    }
    rules.extend([
        port_branch(Protocol::Tcp, (30_000, 32_767)),
        port_branch(Protocol::Udp, (0, 65_535)),
        port_branch(Protocol::Sctp, (7, 7)),
    ]);
    rules.extend(
        [Direction::Egress, Direction::Ingress]
            .map(|direction| directed(family, direction, address))
            .concat(),
    );
    rules
}

/// One rule of every kind and form that stands in built-in chains.
pub fn entrance() -> [Rule<SetName>; 2] {
    let mark = DEFAULT_REVOKED_MARK;
    [Rule::EnterRevoked { mark }, Rule::Enter]
}

fn connections(family: Family) -> Vec<Rule<SetName>> {
    let mut rules = vec![
        Rule::Revoked {
            mark: DEFAULT_REVOKED_MARK,
        },
        Rule::RelatedIcmp(family),
        Rule::Drop,
        Rule::Reset,
        Rule::Reject(family),
    ];
    if family == Family::V6 {
        rules.extend(DISCOVERY.map(|icmp_type| Rule::Discovery { icmp_type }));
    }
    rules
}

fn ports(protocol: Protocol, spans: &[(u16, u16)]) -> Option<PortList> {
    Some(PortList {
        protocol,
        spans: spans.to_vec(),
    })
}

fn port_branch(protocol: Protocol, span: (u16, u16)) -> Rule<SetName> {
    Rule::PortBranch {
        protocol,
        span,
        chain: port_chain(ID, protocol, span),
    }
}

fn allow(protocol: Protocol, spans: &[(u16, u16)]) -> Rule<SetName> {
    Rule::Allow {
        ports: ports(protocol, spans),
        peers: None,
    }
}

fn directed(family: Family, direction: Direction, address: IpAddr) -> Vec<Rule<SetName>> {
    let prefix = IpNet::from(address);
    let wide = IpNet::new_assert(address, prefix.max_prefix_len() - 8).trunc();
    let peers = |set: SetId, with_port| {
        Some(PeerMatch {
            set: set.generation('a'),
            direction,
            with_port,
        })
    };
    vec![
        Rule::Gate {
            direction,
            set: SetId::isolated(family, direction).generation('a'),
        },
        Rule::Range {
            direction,
            set: SetId::pod_ranges(family).generation('a'),
        },
        Rule::Branch {
            direction,
            prefix,
            chain: isolation_chain(ID),
        },
        Rule::Branch {
            direction,
            prefix: wide,
            chain: branch_chain(direction, &wide),
        },
        Rule::Allow {
            ports: None,
            peers: peers(SetId::node(family), false),
        },
        Rule::Allow {
            ports: None,
            peers: peers(SetId::any_port(family, ID), false),
        },
        Rule::Allow {
            ports: None,
            peers: peers(SetId::ports(family, ID), true),
        },
        Rule::Allow {
            ports: ports(Protocol::Tcp, &[(8000, 8999)]),
            peers: peers(SetId::group(family, ID), false),
        },
        Rule::Allow {
            ports: ports(Protocol::Sctp, &[(8000, 8999)]),
            peers: peers(SetId::union(family, &[ID, ID]), false),
        },
        Rule::Deny { direction },
        Rule::Log {
            direction,
            tcp: true,
            options: LogOptions::default(),
        },
        Rule::Log {
            direction,
            tcp: false,
            options: LogOptions::default(),
        },
    ]
}
