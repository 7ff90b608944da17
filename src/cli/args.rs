//! The flags and what `--help` says about them.
//!
//! Values are text here, except for switches; `validate` says what is wrong with them. Every flag has an environment
//! variable: `TUNNEL_ROUTER_` and its name, except where the original had another (`TABLE_OFFSET`, `TUNNEL_PREFIX`,
//! `TUNNEL_ANNOTATION`).
#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "clap prints these comments as help: [2001:db8::7]:80 and <PREFIX> stand for themselves"
)]

use clap::Args;
use clap::builder::BoolishValueParser;

/// Flags of `agent`.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// Where Services and nodes come from.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    /// How packets travel.
    #[command(flatten)]
    pub encapsulation: EncapsulationArgs,
    /// What is the agent's in the kernel.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// How to be watched.
    #[command(flatten)]
    pub observability: ObservabilityArgs,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of `cleanup`.
#[derive(Debug, Clone, Args)]
pub struct CleanupArgs {
    /// Only touch what the agent of this node made [default: whoever made it]
    ///
    /// Pods of another node's agent are seen where several "nodes" share one machine and its /proc.
    #[arg(long, value_name = "NAME", env = "TUNNEL_ROUTER_NODE_NAME", help_heading = "Kubernetes")]
    pub node_name: Option<String>,
    /// Refuse while this DaemonSet exists, or while an agent runs on this node
    ///
    /// Agents would make everything anew. Asks the API as the pod's service account, or by KUBECONFIG, and refuses, too, where that
    /// does not answer. Without it, the API is not asked for anything.
    #[arg(long, value_name = "NAMESPACE/NAME", env = "TUNNEL_ROUTER_UNLESS_DAEMONSET", help_heading = "Kubernetes")]
    pub unless_daemonset: Option<String>,
    /// What is the agent's in the kernel.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of `drain-node`.
#[derive(Debug, Clone, Args)]
pub struct DrainNodeArgs {
    /// Announce again
    #[arg(long)]
    pub undo: bool,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of `load-modules`.
#[derive(Debug, Clone, Args)]
pub struct LoadModulesArgs {
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Form of the answer: text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: String,
    /// Prefix of the names of the agent's network devices
    #[arg(long, value_name = "PREFIX", env = "TUNNEL_ROUTER_TUNNEL_PREFIX", default_value = "kst-")]
    pub link_prefix: String,
    /// Where the node's procfs is mounted; without an agent, pods' connections are looked for there
    #[arg(long, value_name = "PATH", env = "TUNNEL_ROUTER_PROC_ROOT", default_value = "/proc")]
    pub proc_root: String,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Arguments of `trace`.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// The client: 198.51.100.7:40000, [2001:db8::7]:40000, or without a port where none is hashed
    #[arg(value_name = "SRC[:PORT]")]
    pub src: String,
    /// The VIP and the port
    #[arg(value_name = "DST[:PORT]")]
    pub dst: String,
    /// tcp, udp, sctp or icmp
    #[arg(value_name = "PROTOCOL", default_value = "tcp")]
    pub protocol: String,
    /// Form of the answer: text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: String,
    /// Prefix of the names of the agent's network devices
    #[arg(long, value_name = "PREFIX", env = "TUNNEL_ROUTER_TUNNEL_PREFIX", default_value = "kst-")]
    pub link_prefix: String,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of `controller`.
#[derive(Debug, Clone, Args)]
pub struct ControllerArgs {
    /// Where the API is, and what is ours there.
    #[command(flatten)]
    pub api: ApiArgs,
    /// How flows become buckets.
    #[command(flatten)]
    pub hash: HashArgs,
    /// Number of buckets of the Services that have no bucket map yet: 16, 32, 64 or 128
    ///
    /// A map keeps the number that it was made with. 128 need a --mark-field of 8 bits on every node.
    #[arg(
        long,
        value_name = "COUNT",
        env = "TUNNEL_ROUTER_BUCKETS",
        default_value = "64",
        help_heading = "Flow hashing"
    )]
    pub buckets: String,
    /// How long UDP, and whatever else is no TCP, stays with a pod that has lost its bucket
    ///
    /// TCP stays until the last connection is closed, or as long as the Service's annotation about draining allows. Seconds,
    /// or a number with s, m or h, up to 24h; 0 moves them at once.
    #[arg(
        long,
        value_name = "DURATION",
        env = "TUNNEL_ROUTER_DRAIN_UDP",
        default_value = "30s",
        help_heading = "Draining"
    )]
    pub drain_udp: String,
    /// How to be watched.
    #[command(flatten)]
    pub observability: ObservabilityArgs,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Where the API is, and what is ours there.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct ApiArgs {
    /// Path of a kubeconfig file [default: the pod's service account]
    #[arg(long, value_name = "PATH", env = "TUNNEL_ROUTER_KUBECONFIG")]
    pub kubeconfig: Option<String>,

    /// Namespace of the bucket maps that the controller writes and all nodes follow
    #[arg(long, value_name = "NAMESPACE", env = "TUNNEL_ROUTER_NAMESPACE", default_value = "kube-service-tunnel")]
    pub namespace: String,

    /// Annotation that gives a Service its external address (VIP)
    ///
    /// A qualified name of Kubernetes. The annotation <KEY>-mode sets the encapsulation of one Service.
    #[arg(long, value_name = "KEY", env = "TUNNEL_ROUTER_TUNNEL_ANNOTATION", default_value = "cmd.nu/tunnel")]
    pub annotation: String,

    /// Networks that VIPs must lie in, separated by commas [default: anywhere]
    ///
    /// Whoever may annotate a Service can take any free address in these networks. 192.0.2.0/24=shop+web keeps a network for
    /// Services of these namespaces. Addresses of nodes, pods and the API server, of other Services, loopback, link-local and
    /// multicast addresses are refused in any case.
    #[arg(long, value_name = "CIDR[=NAMESPACE+…],…", env = "TUNNEL_ROUTER_VIP_CIDRS")]
    pub vip_cidrs: Option<String>,
}

/// Where Services and nodes come from.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Name of this node's Node object
    ///
    /// Without it the environment variable NODE_NAME is used, then the host name. In a DaemonSet set it from the field
    /// spec.nodeName.
    #[arg(long, value_name = "NAME", env = "TUNNEL_ROUTER_NODE_NAME")]
    pub node_name: Option<String>,

    /// Where the API is, and what is ours there.
    #[command(flatten)]
    pub api: ApiArgs,

    /// Label selector of the nodes that take packets in, such as node=tunnel [default: every node]
    #[arg(long, value_name = "SELECTOR", env = "TUNNEL_ROUTER_INGRESS_NODES")]
    pub ingress_nodes: Option<String>,

    /// Interval at which everything is compared with the kernel, even if nothing changed
    ///
    /// Seconds, or a number with s, m or h; from 1s to 24h.
    #[arg(long, value_name = "DURATION", env = "TUNNEL_ROUTER_RESYNC", default_value = "60s")]
    pub resync: String,
}

/// How packets travel.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Encapsulation")]
pub struct EncapsulationArgs {
    /// Encapsulation for Services that do not name one: gre, mpls or vxlan
    ///
    /// gre (28 bytes per packet) reaches pods of any node. mpls (4 bytes) reaches nodes on the same link. vxlan (VXLAN-GPE
    /// over UDP, 36 bytes) reaches pods of any node, also where IP protocol 47 is dropped or the kernel has no GRE.
    #[arg(long, value_name = "MODE", env = "TUNNEL_ROUTER_MODE", default_value = "gre")]
    pub mode: String,

    /// Label that a pod pops, from 16 to 1048575
    #[arg(long, value_name = "LABEL", env = "TUNNEL_ROUTER_MPLS_LABEL", default_value = "100")]
    pub mpls_label: String,

    /// First of 65536 labels by which other nodes address a pod, from 16 to 983040
    ///
    /// A pod's label is this plus the low 16 bits of its address. The block must not contain --mpls-label. The same on all
    /// nodes.
    #[arg(long, value_name = "LABEL", env = "TUNNEL_ROUTER_MPLS_LABEL_BASE", default_value = "65536")]
    pub mpls_label_base: String,

    /// UDP port of vxlan, from 1 to 65535; the same on all nodes
    #[arg(long, value_name = "PORT", env = "TUNNEL_ROUTER_VXLAN_PORT", default_value = "4790")]
    pub vxlan_port: String,
}

/// How flows become buckets.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Flow hashing")]
pub struct HashArgs {
    /// Seed of the flow hash of new maps, 32 bits, decimal or 0x hexadecimal
    ///
    /// A stored bucket map keeps the seed that it was made with, and all nodes follow it.
    #[arg(long, value_name = "SEED", env = "TUNNEL_ROUTER_HASH_SEED", default_value = "0x6b737431")]
    pub hash_seed: String,
}

/// What is the agent's in the kernel.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kernel objects")]
pub struct KernelArgs {
    /// Number of buckets that there is always room for: 16, 32, 64 or 128
    ///
    /// A stored bucket map says into how many buckets its Service's flows are hashed; maps with more of them are followed as far
    /// as mark field, tables and rules have room. 128 need a --mark-field of 8 bits.
    #[arg(long, value_name = "COUNT", env = "TUNNEL_ROUTER_BUCKETS", default_value = "64")]
    pub buckets: String,

    /// Bits of the fwmark that are the agent's, as a mask, decimal or 0x hexadecimal
    ///
    /// One run of adjacent bits: log2 of --buckets, and one more. Used by others: AWS VPC CNI 0x80, Cilium 0xf00, portmap
    /// 0x2000, kube-proxy 0xc000, Calico 0xffff0000, Tailscale 0xff0000. Packets of VIPs carry no other mark.
    #[arg(long, value_name = "MASK", env = "TUNNEL_ROUTER_MARK_FIELD", default_value = "0xff")]
    pub mark_field: String,

    /// First routing table of a block of 2 x --buckets + 1 tables
    ///
    /// The block must avoid 0 and 253 to 255 and end by 4294967295.
    #[arg(long, value_name = "TABLE", env = "TUNNEL_ROUTER_TABLE_OFFSET", default_value = "10000")]
    pub table_base: String,

    /// Routing table into which the VIPs that this node serves are written, for a routing daemon to announce, or off
    ///
    /// An otherwise unused table; nothing looks into it. A VIP is in it while this node takes its packets in, has set
    /// everything up, and is not cordoned; with externalTrafficPolicy: Local only where it has an endpoint.
    #[arg(long, value_name = "TABLE", env = "TUNNEL_ROUTER_ANNOUNCE_TABLE", default_value = "off")]
    pub announce_table: String,

    /// Priority of the first of two ip rules that stand before those of others
    ///
    /// 1 to 32764. 101 to 510 is best: behind the rules of Cilium (9, 10, 100), before those of AWS VPC CNI (512 and up) and
    /// Tailscale (5210 and up). The first sends packets to VIPs to 1.5 x --buckets rules behind the kernel's own, from
    /// 32768 + PRIORITY on; a packet without the highest bit of --mark-field skips no rule of others.
    #[arg(long, value_name = "PRIORITY", env = "TUNNEL_ROUTER_RULE_PRIORITY", default_value = "101")]
    pub rule_priority: String,

    /// Prefix of the names of network devices, on the node and in pods
    ///
    /// 2 to 10 bytes that end with '-', '_' or '.'. The devices are <PREFIX>gre and <PREFIX>vxlan.
    #[arg(long, value_name = "PREFIX", env = "TUNNEL_ROUTER_TUNNEL_PREFIX", default_value = "kst-")]
    pub link_prefix: String,

    /// Where the node's procfs is mounted
    ///
    /// Pods are found there, and sysctls written: in a container that is not privileged, /proc/sys is read-only.
    #[arg(long, value_name = "PATH", env = "TUNNEL_ROUTER_PROC_ROOT", default_value = "/proc")]
    pub proc_root: String,

    /// Print the ip and nft commands instead of changing anything
    #[arg(long, env = "TUNNEL_ROUTER_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub dry_run: bool,
}

/// How to be watched.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Observability")]
pub struct ObservabilityArgs {
    /// Where /metrics, /healthz and /readyz are served, as ADDRESS:PORT, or off
    ///
    /// The agent runs in the node's network namespace, and /metrics asks for no credentials: think twice before you let other
    /// machines in.
    #[arg(long, value_name = "ADDRESS", env = "TUNNEL_ROUTER_METRICS_ADDRESS", default_value = "127.0.0.1:9469")]
    pub metrics_address: String,
}

/// How to log.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Form of the log lines: text or json
    #[arg(long, value_name = "FORMAT", env = "TUNNEL_ROUTER_LOG_FORMAT", default_value = "text")]
    pub log_format: String,

    /// What to log: error, warn, info, debug, trace or off, also per module, such as info,tunnel_router::kernel=debug
    #[arg(long, value_name = "DIRECTIVES", env = "TUNNEL_ROUTER_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}
