//! `NetworkPolicyPort`.

use super::cluster::{API, OTHER, WEB, allowed, refused, world};
use super::sentences;
use ringfence_policy::Protocol::{self, Sctp, Tcp, Udp};

fn opens(port: &str, to: &str, protocol: Protocol, number: u16) -> bool {
    let world = world(&[&format!("{{podSelector: {{}}, ingress: [{{ports: [{port}]}}]}}")]);
    allowed(&world, OTHER, to, protocol, number)
}

fn refused_port(port: &str) -> String {
    refused(&format!("{{podSelector: {{}}, ingress: [{{ports: [{port}]}}]}}"))
}

sentences! {
    a_port_describes_a_port_to_allow_traffic_on:
        "NetworkPolicyPort" "NetworkPolicyPort describes a port to allow traffic on" => {
        assert!(opens("{port: 8080}", API, Tcp, 8080) && !opens("{port: 8080}", API, Tcp, 8081));
    }
    a_range_includes_both_ends:
        "NetworkPolicyPort.endPort" "endPort indicates that the range of ports from port to endPort if set, inclusive, should be allowed by the policy." => {
        let range = |number| opens("{port: 8000, endPort: 8080}", API, Tcp, number);
        assert_eq!([7999, 8000, 8040, 8080, 8081].map(range), [false, true, true, true, false]);
    }
    a_range_needs_a_number_to_start_from:
        "NetworkPolicyPort.endPort" "This field cannot be defined if the port field is not defined or if the port field is defined as a named (string) port." => {
        assert_eq!(refused_port("{endPort: 80}"), "spec.ingress[0].ports[0].endPort");
        assert_eq!(refused_port("{port: http, endPort: 80}"), "spec.ingress[0].ports[0].endPort");
    }
    a_range_does_not_end_before_it_starts:
        "NetworkPolicyPort.endPort" "The endPort must be equal or greater than port." => {
        assert_eq!(refused_port("{port: 80, endPort: 79}"), "spec.ingress[0].ports[0].endPort");
        assert!(opens("{port: 80, endPort: 80}", API, Tcp, 80));
    }
    a_port_is_one_of_its_protocol:
        "NetworkPolicyPort.port" "port represents the port on the given protocol." => {
        assert!(opens("{port: 53, protocol: UDP}", API, Udp, 53) && !opens("{port: 53, protocol: UDP}", API, Tcp, 53));
    }
    a_port_is_numeric_or_named_on_a_pod:
        "NetworkPolicyPort.port" "This can either be a numerical or named port on a pod." => {
        assert!(opens("{port: http}", API, Tcp, 8080) && opens("{port: http}", WEB, Tcp, 80));
        assert!(!opens("{port: http}", API, Tcp, 80) && !opens("{port: dns}", API, Tcp, 5353), "of the protocol that it names");
        for wrong in ["0", "65536", "-1"] {
            assert_eq!(refused_port(&format!("{{port: {wrong}}}")), "spec.ingress[0].ports[0].port");
        }
    }
    a_missing_port_is_every_number_and_name:
        "NetworkPolicyPort.port" "If this field is not provided, this matches all port names and numbers." => {
        let any = |protocol, number| opens("{protocol: UDP}", API, protocol, number);
        assert!(any(Udp, 1) && any(Udp, 5353) && any(Udp, 65535) && !any(Tcp, 8080));
    }
    a_present_port_must_match_together_with_the_protocol:
        "NetworkPolicyPort.port" "If present, only traffic on the specified protocol AND port will be matched." => {
        let matches = |protocol, number| opens("{protocol: SCTP, port: 7}", API, protocol, number);
        assert_eq!([(Sctp, 7), (Sctp, 8), (Tcp, 7), (Udp, 7)].map(|(p, n)| matches(p, n)), [true, false, false, false]);
    }
    a_protocol_is_tcp_udp_or_sctp:
        "NetworkPolicyPort.protocol" "protocol represents the protocol (TCP, UDP, or SCTP) which traffic must match." => {
        for (name, protocol) in [("TCP", Tcp), ("UDP", Udp), ("SCTP", Sctp)] {
            let port = format!("{{protocol: {name}, port: 7}}");
            assert_eq!([Tcp, Udp, Sctp].map(|p| opens(&port, API, p, 7)), [Tcp, Udp, Sctp].map(|p| p == protocol));
        }
        assert_eq!(refused_port("{protocol: ICMP}"), "spec.ingress[0].ports[0].protocol");
        assert_eq!(refused_port("{protocol: tcp}"), "spec.ingress[0].ports[0].protocol");
    }
    a_missing_protocol_is_tcp:
        "NetworkPolicyPort.protocol" "If not specified, this field defaults to TCP." => {
        assert_eq!([Tcp, Udp, Sctp].map(|protocol| opens("{port: 53}", API, protocol, 53)), [true, false, false]);
        assert_eq!([Tcp, Udp, Sctp].map(|protocol| opens("{}", API, protocol, 53)), [true, false, false]);
    }
}
