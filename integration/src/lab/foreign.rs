//! Objects of other owners: what a node carries besides us, so that tests can tell whether we leave it alone.
//!
//! A kube-proxy in nftables mode with connection tracking (the part that decides whether an untracked or half-seen flow
//! gets through), a VPN's rule and table, somebody's nexthop object, a container engine's idle bridge, a host firewall.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use std::os::fd::AsRawFd;

use super::address::{API, API_CLUSTER_IP, API_CLUSTER_IP6, API6, FABRIC, FABRIC6, PODS, PODS6};
use super::spec::LabSpec;
use super::stack::{Stack, net};
use crate::netns::Netns;

/// Priority of the VPN's rule (Tailscale's range).
pub const RULE_PRIORITY: u32 = 5270;
/// The VPN's routing table.
pub const TABLE: u32 = 52;
/// The VPN's network in IPv6.
const VPN6: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0);
/// Id of the foreign nexthop object.
pub const NEXTHOP_ID: u32 = 4242;
/// The idle bridge.
pub const BRIDGE: &str = "docker0";

/// Gives a node its kube-proxy and, if wanted, the other foreign objects.
pub(super) async fn furnish_node(stack: &Stack, spec: &LabSpec) -> Result<()> {
    let mut rules: String = [IPV4, IPV6].iter().map(|family| kube_proxy(family, spec.masquerade)).collect();
    if spec.foreign_objects {
        rules.push_str(HOST_FIREWALL);
        stack.add_rule(RULE_PRIORITY, (0x8_0000, 0xff_0000), TABLE).await?;
        stack.add_blackhole(net(Ipv4Addr::new(100, 64, 0, 0), 10), TABLE).await?;
        stack.add_blackhole((VPN6.into(), 48), TABLE).await?;
        stack.add_bridge(BRIDGE, 1500).await?;
        stack.add_address(BRIDGE, IpAddr::from([172, 17, 0, 1]), 16).await?;
        add_blackhole_nexthop(stack.netns(), NEXTHOP_ID)?;
    }
    super::nft::load_async(stack.netns(), rules).await
}

/// The nft table that some pods bring along, as an init container of a service mesh would leave it.
pub(super) const POD_RULES: &str = "
table inet pod-firewall {
    set blocked { type ipv4_addr; flags interval; elements = { 192.0.2.128/25, 203.0.113.200 }; }
    chain input {
        type filter hook input priority filter; policy accept;
        ip saddr @blocked drop
        tcp dport 22 reject with tcp reset
    }
}
";

const HOST_FIREWALL: &str = "
table inet host-firewall {
    set admins { type ipv4_addr; elements = { 198.51.100.250 }; }
    chain input {
        type filter hook input priority filter; policy accept;
        ct state established,related accept
        tcp dport 22 ip saddr != @admins drop
    }
}
";

/// What is different in the rules of the two families.
struct KubeProxy {
    /// The words for the family and the type of its addresses.
    words: (&'static str, &'static str),
    pods: (IpAddr, u8),
    fabric: (IpAddr, u8),
    cluster_ip: IpAddr,
    api: IpAddr,
}

const IPV4: KubeProxy = KubeProxy {
    words: ("ip", "ipv4_addr"),
    pods: (IpAddr::V4(PODS), 16),
    fabric: (IpAddr::V4(FABRIC), 24),
    cluster_ip: IpAddr::V4(API_CLUSTER_IP),
    api: IpAddr::V4(API),
};

const IPV6: KubeProxy = KubeProxy {
    words: ("ip6", "ipv6_addr"),
    pods: (IpAddr::V6(PODS6), 32),
    fabric: (IpAddr::V6(FABRIC6), 64),
    cluster_ip: IpAddr::V6(API_CLUSTER_IP6),
    api: IpAddr::V6(API6),
};

/// What matters of kube-proxy's nftables mode, under a name of its own. `ct state invalid drop` is what kills the half of
/// an asymmetric flow that is tracked.
fn kube_proxy(family: &KubeProxy, masquerade: bool) -> String {
    let KubeProxy { words: (ip, addr), cluster_ip, .. } = family;
    let prefix = |(address, length): (IpAddr, u8)| format!("{address}/{length}");
    let (pods, fabric) = (prefix(family.pods), prefix(family.fabric));
    let world = format!("{{ {pods}, {fabric} }}");
    let snat = if masquerade { format!("{ip} saddr {pods} {ip} daddr != {world} masquerade") } else { String::new() };
    let api = SocketAddr::new(family.api, 6443);
    format!(
        "
table {ip} kube-proxy-lab {{
    map service-ips {{
        type {addr} . inet_proto . inet_service : verdict
        elements = {{ {cluster_ip} . tcp . 443 : goto service-kubernetes }}
    }}
    chain service-kubernetes {{
        {ip} saddr != {pods} jump mark-for-masquerade
        meta l4proto tcp dnat to {api}
    }}
    chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        ct state invalid drop
        ct state established,related accept
    }}
    chain nat-prerouting {{
        type nat hook prerouting priority dstnat;
        {ip} daddr . meta l4proto . th dport vmap @service-ips
    }}
    chain nat-output {{
        type nat hook output priority -100;
        {ip} daddr . meta l4proto . th dport vmap @service-ips
    }}
    chain nat-postrouting {{
        type nat hook postrouting priority srcnat;
        meta mark & 0x4000 == 0x4000 meta mark set meta mark xor 0x4000 masquerade
        {snat}
    }}
}}
"
    )
}

/// `ip nexthop add id ID blackhole`: netlink-packet-route has no nexthop objects, and this one message is short.
fn add_blackhole_nexthop(netns: &Netns, id: u32) -> Result<()> {
    let reply = netns.run_io("add a nexthop", || exchange(&blackhole_request(id)))?;
    // A netlink error message carries its code, negative errno or 0, behind the 16 bytes of the header.
    let code = reply.get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes).context("short reply")?;
    if code != 0 {
        bail!("{}: nexthop add id {id} blackhole: {}", netns.name(), std::io::Error::from_raw_os_error(-code));
    }
    Ok(())
}

fn blackhole_request(id: u32) -> Vec<u8> {
    const RTM_NEWNEXTHOP: u16 = 104;
    const REQUEST_ACK_CREATE_EXCL: u16 = 0x1 | 0x4 | 0x400 | 0x200;
    const AF_INET: u8 = 2;
    const PROTO_STATIC: u8 = 4;
    const NHA_ID: u16 = 1;
    const NHA_BLACKHOLE: u16 = 4;
    let mut body = vec![AF_INET, 0, PROTO_STATIC, 0, 0, 0, 0, 0];
    body.extend([8u16.to_ne_bytes(), NHA_ID.to_ne_bytes()].concat());
    body.extend(id.to_ne_bytes());
    body.extend([4u16.to_ne_bytes(), NHA_BLACKHOLE.to_ne_bytes()].concat());
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend([RTM_NEWNEXTHOP.to_ne_bytes(), REQUEST_ACK_CREATE_EXCL.to_ne_bytes()].concat());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn exchange(request: &[u8]) -> std::io::Result<Vec<u8>> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(fd.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut reply = vec![0; 4096];
    let length = recv(fd.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    reply.truncate(length);
    Ok(reply)
}
