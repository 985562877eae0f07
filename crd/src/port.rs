//! The two shapes of a port: a Service's (what a user names in a ServiceAccess) and a pod's.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A port of a Service, by its name or its number.
pub type ServicePortRef = IntOrString;

/// A transport protocol.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransportProtocol {
    /// TCP, the default.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl TransportProtocol {
    /// The name Kubernetes uses: `TCP`, `UDP` or `SCTP`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// A port of a pod: what the container listens on, not what a Service offers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct PodPort {
    /// Number of the port, or the name a container gives it. A name stands for the number that each pod's own
    /// containers declare under it, and for nothing on a pod that declares none.
    #[schemars(schema_with = "pod_port_schema")]
    pub port: IntOrString,

    /// Transport protocol of the port; TCP if it is left out.
    #[serde(default)]
    pub protocol: TransportProtocol,
}

/// The port of a pod: 1 to 65535, or a container port's name (IANA service name).
pub(crate) fn pod_port_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 15,
        "x-kubernetes-validations": [
            {
                "rule": "type(self) != int || (self >= 1 && self <= 65535)",
                "message": "port: a port number is between 1 and 65535",
            },
            {
                "rule": "type(self) != string || (self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$') && self.matches('[a-z]') && !self.contains('--'))",
                "message": "port: a container port's name has 1 to 15 lower case letters, digits and single '-', among them a letter",
            },
        ],
    })
}

/// The ports of a Service: 1 to 65535, or the name the Service gives the port (a DNS label).
pub(crate) fn service_ports_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "x-kubernetes-int-or-string": true,
            "maxLength": 63,
            "x-kubernetes-validations": [
                {
                    "rule": "type(self) != int || (self >= 1 && self <= 65535)",
                    "message": "ports: a port number is between 1 and 65535",
                },
                {
                    "rule": "type(self) != string || (self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$') && self.matches('[a-z]'))",
                    "message": "ports: the name of a Service port has 1 to 63 lower case letters, digits and '-', among them a letter; write a number without quotes",
                },
            ],
        },
    })
}
