//! Allocation of cluster addresses and node ports, in ascending order so that a failing test fails the same way again.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::apiserver::object::{self, child, text};
use crate::apiserver::store::State;

/// Where addresses and ports of Services come from.
#[derive(Debug, Clone)]
pub struct Ranges {
    /// The families that the cluster gives cluster addresses of, the primary one first: `IPv4`, `IPv6` or both.
    pub families: Vec<String>,
    /// First address of the IPv4 service network; the network is a /16.
    pub ipv4: Ipv4Addr,
    /// First address of the IPv6 service network; the network is a /112.
    pub ipv6: Ipv6Addr,
    /// First node port; the range ends at 32767.
    pub node_port: u16,
}

impl Default for Ranges {
    fn default() -> Self {
        Self {
            families: vec!["IPv4".to_owned(), "IPv6".to_owned()],
            ipv4: Ipv4Addr::new(10, 96, 0, 0),
            ipv6: Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0),
            node_port: 30000,
        }
    }
}

impl Ranges {
    /// The family of a Service that asks for none.
    pub fn primary(&self) -> &str {
        self.families.first().map_or("IPv4", String::as_str)
    }

    /// The cluster address with this number, in the primary family.
    pub fn primary_address(&self, host: u16) -> IpAddr {
        self.address(self.primary(), host)
    }

    /// The networks that cluster addresses come from, the primary one first.
    pub fn networks(&self) -> Vec<String> {
        let network = |family: &String| match family.as_str() {
            "IPv6" => format!("{}/112", self.ipv6),
            _ => format!("{}/16", self.ipv4),
        };
        self.families.iter().map(network).collect()
    }

    fn address(&self, family: &str, host: u16) -> IpAddr {
        if family == "IPv6" {
            IpAddr::V6(Ipv6Addr::from(u128::from(self.ipv6) + u128::from(host)))
        } else {
            IpAddr::V4(Ipv4Addr::from(u32::from(self.ipv4) + u32::from(host)))
        }
    }
}

/// Gives a Service the addresses and ports that it lacks.
pub fn allocate(object: &mut Value, state: &State, ranges: &Ranges) {
    allocate_addresses(object, state, ranges);
    let kind = text(object, "/spec/type").to_owned();
    let wanted = kind == "NodePort"
        || (kind == "LoadBalancer" && object.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&json!(false)));
    if !wanted && kind != "LoadBalancer" {
        return;
    }
    let mut used = used_ports(state);
    if wanted {
        allocate_node_ports(object, &mut used, ranges);
    }
    if kind == "LoadBalancer" && text(object, "/spec/externalTrafficPolicy") == "Local" {
        let spec = child(object, "spec");
        if spec.get("healthCheckNodePort").is_none() {
            spec.insert("healthCheckNodePort".into(), json!(next_port(&mut used, ranges)));
        }
    }
}

fn allocate_addresses(object: &mut Value, state: &State, ranges: &Ranges) {
    let families: Vec<String> =
        object::list(object, "/spec/ipFamilies").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let mut addresses: Vec<String> =
        object::list(object, "/spec/clusterIPs").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let first = text(object, "/spec/clusterIP");
    // Who changes only clusterIP means the first of clusterIPs too; validation judges whether that is allowed.
    if !first.is_empty() && addresses.first().is_none_or(|address| address != first) {
        addresses.splice(..addresses.len().min(1), [first.to_owned()]);
    }
    if addresses.first().is_none_or(|first| first != "None") {
        let lacks = addresses.len() < families.len();
        let used = if lacks { used_addresses(state) } else { BTreeSet::new() };
        for family in families.iter().skip(addresses.len()) {
            let free = (10..=u16::MAX).map(|host| ranges.address(family, host).to_string());
            addresses.extend(free.into_iter().find(|address| !used.contains(address)));
        }
        addresses.truncate(families.len());
    }
    let spec = child(object, "spec");
    spec.insert("clusterIP".into(), json!(addresses.first()));
    spec.insert("clusterIPs".into(), json!(addresses));
}

fn used_addresses(state: &State) -> BTreeSet<String> {
    let services = state.all("services");
    services
        .flat_map(|(_, service)| object::list(service, "/spec/clusterIPs"))
        .filter_map(|ip| Some(ip.as_str()?.to_owned()))
        .collect()
}

fn used_ports(state: &State) -> BTreeSet<u64> {
    let mut used = BTreeSet::new();
    for (_, service) in state.all("services") {
        used.extend(service.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64));
        used.extend(object::list(service, "/spec/ports").iter().filter_map(|port| port["nodePort"].as_u64()));
    }
    used
}

/// The same port over several protocols gets the same node port.
fn allocate_node_ports(object: &mut Value, used: &mut BTreeSet<u64>, ranges: &Ranges) {
    let mut given: Vec<(Value, u64)> = Vec::new();
    for port in object.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if port["nodePort"].as_u64().unwrap_or_default() == 0 {
            let same = given.iter().find(|(number, _)| *number == port["port"]).map(|(_, node_port)| *node_port);
            port["nodePort"] = json!(same.unwrap_or_else(|| next_port(used, ranges)));
        }
        given.push((port["port"].clone(), port["nodePort"].as_u64().unwrap_or_default()));
    }
}

fn next_port(used: &mut BTreeSet<u64>, ranges: &Ranges) -> u64 {
    let free = (u64::from(ranges.node_port)..32768).find(|port| !used.contains(port)).unwrap_or_default();
    used.insert(free);
    free
}
