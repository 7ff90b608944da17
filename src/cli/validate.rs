//! Flags → [`Config`]: one pure function per subcommand, which reports everything that is wrong at once.
//!
//! Each problem names the flag, its environment variable and value, and what would be right. Where the check of one value
//! needs another that is wrong itself, it takes that one's default, so that the reader sees no consequential errors.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::args::{
    AgentArgs, ApiArgs, CleanupArgs, ControllerArgs, DrainNodeArgs, EncapsulationArgs, KernelArgs, KubernetesArgs,
    LoadModulesArgs, LogArgs, StatusArgs, TraceArgs,
};
use super::parse::{duration, number};
use crate::model::config::{
    CleanupConfig, Config, ControllerConfig, DaemonSetName, DrainNodeConfig, KernelObjects, LogConfig, LogFormat,
    MplsLabels, Output, StatusConfig, TraceConfig, VipRange, check_announce_table, check_priority, check_tables,
};
use crate::model::names::{AnnotationKey, LinkPrefix, is_dns_subdomain};
use crate::model::protocol::parse_end;
use crate::model::{BucketCount, Family, MarkField, Mode, Protocol, TracedFlow, parse_duration};

/// What the process knows about its host, for defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// The environment variable `NODE_NAME`.
    pub node_name: Option<String>,
    /// The host name.
    pub hostname: Option<String>,
}

/// One value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is {value:?}: {reason}", shown(flag))]
pub struct Invalid {
    /// The flag, without dashes, or an argument in capitals.
    pub flag: &'static str,
    /// What was given.
    pub value: String,
    /// What is wrong, or what would be right.
    pub reason: String,
}

/// Everything that is wrong with the configuration, at least one thing, in the order of `--help`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Invalid>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid configuration")?;
        self.0.iter().try_for_each(|invalid| write!(f, "\n  {invalid}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// A flag with its environment variable if it has one, or an argument.
fn shown(flag: &str) -> String {
    match flag {
        "output" => format!("--{flag}"),
        argument if argument.starts_with(char::is_uppercase) => argument.to_owned(),
        flag => format!("--{flag} ({})", env_of(flag)),
    }
}

/// The environment variable of a flag.
pub fn env_of(flag: &str) -> String {
    let name = match flag {
        "annotation" => "tunnel-annotation",
        "table-base" => "table-offset",
        "link-prefix" => "tunnel-prefix",
        same => same,
    };
    format!("TUNNEL_ROUTER_{}", name.replace('-', "_").to_uppercase())
}

/// The configuration of the agent.
///
/// # Errors
/// Everything that is wrong with it.
pub fn agent_config(args: &AgentArgs, host: &Host) -> Result<Config, ConfigErrors> {
    let mut check = Check::default();
    let (kubernetes, encapsulation) = (&args.kubernetes, &args.encapsulation);
    let node_name = node_name(&mut check, kubernetes, host);
    let namespace = check.value("namespace", &kubernetes.api.namespace, namespace);
    let annotation = check.value("annotation", &kubernetes.api.annotation, AnnotationKey::new);
    let vip_ranges = vip_ranges(&mut check, &kubernetes.api);
    let resync = check.value("resync", &kubernetes.resync, |text| duration(text).ok_or(DURATION));
    let mode = check.value("mode", &encapsulation.mode, str::parse::<Mode>);
    let mpls = mpls_labels(&mut check, encapsulation);
    let vxlan_port = check.value("vxlan-port", &encapsulation.vxlan_port, port);
    let kernel = kernel_objects(&mut check, &args.kernel);
    let metrics_address = check.value("metrics-address", &args.observability.metrics_address, listen_address);
    let log = log_config(&mut check, &args.log);
    check.finish(|| {
        Some(Config {
            node_name: node_name?,
            kubeconfig: kubeconfig(&kubernetes.api),
            namespace: namespace?,
            annotation: annotation?,
            ingress_nodes: kubernetes.ingress_nodes.clone().filter(|selector| !selector.trim().is_empty()),
            vip_ranges: vip_ranges?,
            resync: resync?,
            mode: mode?,
            mpls: mpls?,
            vxlan_port: vxlan_port?,
            kernel: kernel?,
            dry_run: args.kernel.dry_run,
            metrics_address: metrics_address?,
            log: log?,
        })
    })
}

/// The configuration of `cleanup`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn cleanup_config(args: &CleanupArgs) -> Result<CleanupConfig, ConfigErrors> {
    let mut check = Check::default();
    let unless = args.unless_daemonset.as_ref().map(|text| check.value("unless-daemonset", text, daemon_set));
    let kernel = kernel_objects(&mut check, &args.kernel);
    let log = log_config(&mut check, &args.log);
    check.finish(|| {
        Some(CleanupConfig {
            node_name: args.node_name.clone(),
            unless: unless.flatten(),
            kernel: kernel?,
            dry_run: args.kernel.dry_run,
            log: log?,
        })
    })
}

fn daemon_set(text: &str) -> Result<DaemonSetName, &'static str> {
    let parts = text.split_once('/').filter(|(namespace, name)| is_dns_subdomain(namespace) && is_dns_subdomain(name));
    let (namespace, name) = parts.ok_or("must be NAMESPACE/NAME, such as kube-service-tunnel/tunnel-router")?;
    Ok(DaemonSetName { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// The configuration of `drain-node`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn drain_node_config(args: &DrainNodeArgs) -> Result<DrainNodeConfig, ConfigErrors> {
    let mut check = Check::default();
    let log = log_config(&mut check, &args.log);
    check.finish(|| Some(DrainNodeConfig { undo: args.undo, log: log? }))
}

/// The configuration of `load-modules`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_modules_config(args: &LoadModulesArgs) -> Result<LogConfig, ConfigErrors> {
    let mut check = Check::default();
    let log = log_config(&mut check, &args.log);
    check.finish(|| log)
}

/// The configuration of `status`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn status_config(args: &StatusArgs) -> Result<StatusConfig, ConfigErrors> {
    let mut check = Check::default();
    let output = check.value("output", &args.output, output);
    let link_prefix = check.value("link-prefix", &args.link_prefix, LinkPrefix::new);
    let proc_root = check.value("proc-root", &args.proc_root, absolute);
    let log = log_config(&mut check, &args.log);
    check.finish(|| Some(StatusConfig { output: output?, link_prefix: link_prefix?, proc_root: proc_root?, log: log? }))
}

/// The configuration of `trace`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn trace_config(args: &TraceArgs) -> Result<TraceConfig, ConfigErrors> {
    let mut check = Check::default();
    let src = check.value("SRC", &args.src, end);
    let dst = check.value("DST", &args.dst, |text| match (end(text), src) {
        (Ok((dst, _)), Some((src, _))) if Family::of(dst) != Family::of(src) => Err("must be of the family of SRC"),
        (end, _) => end,
    });
    let protocol = check.value("PROTOCOL", &args.protocol, str::parse::<Protocol>);
    let output = check.value("output", &args.output, output);
    let link_prefix = check.value("link-prefix", &args.link_prefix, LinkPrefix::new);
    let log = log_config(&mut check, &args.log);
    check.finish(|| {
        let ((src, from), (dst, to)) = (src?, dst?);
        let flow = TracedFlow { src, dst, ports: from.zip(to), protocol: protocol? };
        Some(TraceConfig { flow, output: output?, link_prefix: link_prefix?, log: log? })
    })
}

fn output(text: &str) -> Result<Output, &'static str> {
    match text {
        "text" => Ok(Output::Text),
        "json" => Ok(Output::Json),
        _ => Err("must be text or json"),
    }
}

fn end(text: &str) -> Result<(IpAddr, Option<u16>), &'static str> {
    parse_end(text).ok_or("must be an address with or without a port, such as 192.0.2.10:80 or [2001:db8::10]:80")
}

fn absolute(path: &str) -> Result<PathBuf, &'static str> {
    if Path::new(path).is_absolute() { Ok(PathBuf::from(path)) } else { Err("must be an absolute path") }
}

/// The configuration of the controller.
///
/// # Errors
/// Everything that is wrong with it.
pub fn controller_config(args: &ControllerArgs, host: &Host) -> Result<ControllerConfig, ConfigErrors> {
    let mut check = Check::default();
    let namespace = check.value("namespace", &args.api.namespace, namespace);
    let annotation = check.value("annotation", &args.api.annotation, AnnotationKey::new);
    let vip_ranges = vip_ranges(&mut check, &args.api);
    let seed = check.value("hash-seed", &args.hash.hash_seed, |text| number(text).ok_or(NUMBER));
    let buckets = check.number("buckets", &args.buckets, BucketCount::new);
    let drain_non_tcp = check.value("drain-udp", &args.drain_udp, |text| parse_duration(text).ok_or(DURATION_OR_NONE));
    let metrics_address = check.value("metrics-address", &args.observability.metrics_address, listen_address);
    let log = log_config(&mut check, &args.log);
    // Two processes of one host are two controllers.
    let identity = format!("{}_{}", host.hostname.as_deref().unwrap_or("controller"), std::process::id());
    check.finish(|| {
        Some(ControllerConfig {
            kubeconfig: kubeconfig(&args.api),
            namespace: namespace?,
            annotation: annotation?,
            vip_ranges: vip_ranges?,
            identity,
            buckets: buckets?,
            hash_seed: seed?,
            drain_non_tcp: drain_non_tcp?,
            metrics_address: metrics_address?,
            log: log?,
        })
    })
}

fn kubeconfig(args: &ApiArgs) -> Option<PathBuf> {
    args.kubeconfig.as_ref().filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// `off` and nothing at all are `None`.
fn listen_address(text: &str) -> Result<Option<SocketAddr>, &'static str> {
    match text {
        "" | "off" => Ok(None),
        address => address.parse().map(Some).map_err(|_| LISTEN),
    }
}

/// A DNS label (RFC 1123).
fn is_namespace(name: &str) -> bool {
    is_dns_subdomain(name) && !name.contains('.') && name.len() <= 63
}

fn namespace(name: &str) -> Result<String, &'static str> {
    is_namespace(name).then(|| name.to_owned()).ok_or("must be the name of a namespace, such as kube-service-tunnel")
}

const LISTEN: &str = "must be an IP address and a port, such as 127.0.0.1:9469 or [::1]:9469, or off";
const NUMBER: &str = "must be a number from 0 to 4294967295, decimal or 0x hexadecimal";
const DURATION: &str = "must be seconds, or a number with s, m or h, from 1s to 24h";

const ANNOUNCE: &str = "must be the number of a routing table, such as 10900, or off";
const DEFAULT_TABLES: u32 = 10_000;
const DURATION_OR_NONE: &str = "must be 0, seconds, or a number with s, m or h, up to 24h";

/// Collects what is wrong.
#[derive(Debug, Default)]
struct Check {
    errors: Vec<Invalid>,
}

impl Check {
    /// The value behind a flag's text; `None`, and noted, when it cannot be used.
    fn value<T, E: fmt::Display>(
        &mut self,
        flag: &'static str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let note = |reason: E| Invalid { flag, value: text.to_owned(), reason: reason.to_string() };
        parse(text).map_err(|reason| self.errors.push(note(reason))).ok()
    }

    /// As [`Check::value`], for a number that is checked further.
    fn number<T, E: fmt::Display>(
        &mut self,
        flag: &'static str,
        text: &str,
        check: impl FnOnce(u32) -> Result<T, E>,
    ) -> Option<T> {
        self.value(flag, text, |text| {
            let number = number(text).ok_or_else(|| NUMBER.to_owned())?;
            check(number).map_err(|reason| reason.to_string())
        })
    }

    fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, ConfigErrors> {
        match build() {
            Some(config) if self.errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors(self.errors)),
        }
    }
}

/// Kubelet names the Node after the host name in lower case, and so does the last resort here.
fn node_name(check: &mut Check, args: &KubernetesArgs, host: &Host) -> Option<String> {
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let name = given(&args.node_name)
        .or_else(|| given(&host.node_name))
        .or_else(|| given(&host.hostname).map(|name| name.to_lowercase()))
        .unwrap_or_default();
    check.value("node-name", &name, |name| {
        let reason = "must be the name of a Node: lower-case letters, digits, '-' and '.', at most 253 bytes; \
                      neither NODE_NAME nor the host name helped";
        if is_dns_subdomain(name) { Ok(name.to_owned()) } else { Err(reason) }
    })
}

/// Notes every member that is wrong, not just the first.
fn vip_ranges(check: &mut Check, args: &ApiArgs) -> Option<Vec<VipRange>> {
    let members = args.vip_cidrs.as_deref().unwrap_or_default().split(',').map(str::trim).filter(|m| !m.is_empty());
    let parsed: Vec<Option<VipRange>> = members.map(|member| check.value("vip-cidrs", member, vip_range)).collect();
    parsed.into_iter().collect()
}

/// `CIDR`, or `CIDR=NAMESPACE+NAMESPACE`.
fn vip_range(text: &str) -> Result<VipRange, String> {
    let (net, names) = text.split_once('=').map_or((text, None), |(net, names)| (net, Some(names)));
    let names: Vec<&str> = names.into_iter().flat_map(|names| names.split('+')).map(str::trim).collect();
    match names.iter().find(|name| !is_namespace(name)) {
        Some(bad) => Err(format!("has {bad:?} where the name of a namespace must be, as in 192.0.2.0/24=shop+web")),
        None => Ok(VipRange { net: cidr(net.trim())?, namespaces: names.into_iter().map(str::to_owned).collect() }),
    }
}

/// A network in its canonical form: bits behind the prefix are a slip of somebody who meant another network.
fn cidr(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| "must be a network such as 192.0.2.0/24 or 2001:db8::/64".to_owned())?;
    if net.trunc() == net { Ok(net) } else { Err(format!("has bits behind its prefix: did you mean {}?", net.trunc())) }
}

fn mpls_labels(check: &mut Check, args: &EncapsulationArgs) -> Option<MplsLabels> {
    let pop = check.number("mpls-label", &args.mpls_label, MplsLabels::check_pop);
    let base = check.number("mpls-label-base", &args.mpls_label_base, MplsLabels::check_base);
    let (pop, base) = (pop?, base?);
    check.value("mpls-label-base", &args.mpls_label_base, |_| MplsLabels::new(pop, base))
}

fn port(text: &str) -> Result<u16, &'static str> {
    let port = number(text).and_then(|number| u16::try_from(number).ok());
    port.filter(|port| *port > 0).ok_or("must be a UDP port from 1 to 65535")
}

fn kernel_objects(check: &mut Check, args: &KernelArgs) -> Option<KernelObjects> {
    let buckets = check.number("buckets", &args.buckets, BucketCount::new);
    let assumed = buckets.unwrap_or_default();
    let mark = check.number("mark-field", &args.mark_field, |mask| MarkField::new(mask, assumed));
    let table_base = check.number("table-base", &args.table_base, |first| check_tables(first, assumed).map(|()| first));
    let announce_table = check.value("announce-table", &args.announce_table, |text| match text {
        "" | "off" => Ok(None),
        text => {
            let table = number(text).ok_or_else(|| ANNOUNCE.to_owned())?;
            let first = table_base.unwrap_or(DEFAULT_TABLES);
            check_announce_table(table, first, assumed).map(Some).map_err(|e| e.to_string())
        }
    });
    let rule_priority = check.number("rule-priority", &args.rule_priority, check_priority);
    let link_prefix = check.value("link-prefix", &args.link_prefix, LinkPrefix::new);
    let proc_root = check.value("proc-root", &args.proc_root, absolute);
    Some(KernelObjects {
        link_prefix: link_prefix?,
        buckets: buckets?,
        mark: mark?,
        table_base: table_base?,
        rule_priority: rule_priority?,
        announce_table: announce_table?,
        proc_root: proc_root?,
    })
}

fn log_config(check: &mut Check, args: &LogArgs) -> Option<LogConfig> {
    let format = check.value("log-format", &args.log_format, |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be text or json"),
    });
    let level = check.value("log-level", &args.log_level, |text| {
        let reason =
            "must be error, warn, info, debug, trace or off, or directives such as info,tunnel_router::kernel=debug";
        EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|error| format!("{reason} ({error})"))
    });
    Some(LogConfig { format: format?, level: level? })
}
