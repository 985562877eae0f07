//! The rules in a real kernel: text that survives a round trip, packets, repairs, clean-up. Needs root, iptables and
//! ipset; everything happens in network namespaces that the tests make and remove.

mod agent;
mod audit;
mod drops;
mod faults;
mod gate;
mod net;
mod orphans;
mod own_node;
mod packets;
mod pod_start;
mod ranges;
mod repairs;
mod revoke;
mod roundtrip;
mod takeover;
mod world;
