//! What the suites share: a real Kubernetes cluster on this one machine, connectivity probes from inside its network
//! namespaces, and the images the cluster runs.
//!
//! ```text
//!   testbed::Cluster ── up/down ──► namespaces, containerd, kubelet, kube-proxy, CoreDNS
//!   testbed::ApiServer ───────────► etcd + kube-apiserver on loopback, for suites that need no node
//!   deploy ─────────────────────► images onto nodes, then kubectl apply -k
//!   images ───────────────────────► OCI archives, written without a container engine
//!   scenario ───────────────────► examples/S…, examples/A…: transcripts, replayed against packets and policy engine
//!   shop ───────────────────────► examples/three-tier: who should reach whom, and who does
//!   upstream ───────────────────► the upstream NetworkPolicy suite, run against a cluster
//!   net_lab ──────────────────────► a node without Kubernetes: a router, pods around it
//!   flows ────────────────────────► long conversations, watched at both ends
//!   probe ────────────────────────► "can this pod open that address?", asked with a real socket
//! ```

pub mod deploy;
pub mod flows;
pub mod images;
pub mod kube_objects;
pub mod net_lab;
pub mod probe;
pub mod scenario;
pub mod shop;
pub mod source;
pub mod testbed;
pub mod upstream;
