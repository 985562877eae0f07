//! From an IPBlock to the model.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as networking;

use super::policy::Invalid;
use crate::model::IpBlock;

pub(super) fn parse_block(at: &str, block: &networking::IPBlock) -> Result<IpBlock, Invalid> {
    let (cidr, length) = parse_cidr(&format!("{at}.cidr"), &block.cidr)?;
    let mut except = Vec::new();
    for (index, text) in block.except.iter().flatten().enumerate() {
        let at = format!("{at}.except[{index}]");
        let (network, except_length) = parse_cidr(&at, text)?;
        // The API server compares the lengths as they are written, also where one of the two is an IPv4 network
        // written as an IPv6 one.
        if !cidr.contains(&network.addr()) || length >= except_length {
            return Err(Invalid::new(
                at,
                format!("{text} must lie strictly inside {}", block.cidr),
            ));
        }
        except.push(network);
    }
    except.sort();
    except.dedup();
    Ok(IpBlock { cidr, except })
}

/// Parses a CIDR. Bits behind the prefix do not count; octets with leading zeros, which old objects may still have,
/// are read as the API server reads them: as decimal numbers. Gives the length of the prefix as it is written, too.
fn parse_cidr(at: &str, text: &str) -> Result<(IpNet, u8), Invalid> {
    let invalid = || Invalid::new(at, format!("`{text}` is no CIDR such as 10.0.0.0/8 or fd00::/8"));
    let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
    let address = address
        .parse()
        .or_else(|_| decimal_octets(address).parse())
        .map_err(|_| invalid())?;
    if !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
    let network = match address {
        // An IPv4 address written as IPv6 is the IPv4 address, as in Go's net package.
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() && prefix >= 96 => {
            IpNet::new(v6.to_canonical(), prefix - 96)
        }
        address => IpNet::new(address, prefix),
    };
    network
        .map(|network| (network.trunc(), prefix))
        .map_err(|_| invalid())
}

fn decimal_octets(address: &str) -> String {
    let octets = address
        .split('.')
        .map(|octet| match octet.trim_start_matches('0') {
            "" if !octet.is_empty() => "0",
            digits => digits,
        });
    octets.collect::<Vec<_>>().join(".")
}
