//! The ways of others to take a packet to an endpoint, set up as they do it themselves.

use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::Result;
use tunnel_router::model::Family;

use super::site::{ENDPOINTS, PORT, Site};
use super::tool;
use crate::lab::nft;

/// A firewall mark and the table for it; any numbers do.
const MARK: u32 = 0x77;
const TABLE: u32 = 78;

/// A route to the first endpoint, as if the VIP were its address.
pub async fn plain(site: &Site) -> Result<()> {
    site.node().add_route_via((site.vip(), site.host_prefix()), site.endpoint(0)).await
}

/// kube-router's direct server return: a firewall mark makes the packet local by a rule, and IPVS, which balances by the
/// mark, sends it on in an IP tunnel. The scheduler looks at the ports too, or all flows of the one client would be sent to
/// one endpoint. Nothing else on this node tracks connections, which is IPVS at its cheapest.
pub fn ipvs(site: &Site) -> Result<()> {
    let (ip, vip) = (nft_family(site.family), site.vip());
    let node = site.node().netns();
    let mark = format!(
        "table {ip} kube-router {{
            chain prerouting {{
                type filter hook prerouting priority mangle;
                {ip} daddr {vip} udp dport {PORT} meta mark set {MARK};
            }}
        }}"
    );
    nft::load(node, &mark)?;
    let local =
        format!("rule add pref 32764 fwmark {MARK} lookup {TABLE}\nroute add local default dev lo table {TABLE}\n");
    tool::run(node, "ip", &[ip_flag(site.family), "-batch", "-"], &local)?;
    // The family of a service that is a mark has to be said, and brackets want a port; 0 is that of the service.
    let family = if vip.is_ipv6() { " -6" } else { "" };
    let mut services = format!("-A -f {MARK}{family} -s mh -b mh-port\n");
    for endpoint in (0..ENDPOINTS).map(|n| site.endpoint(n)) {
        writeln!(services, "-a -f {MARK}{family} -r {} -i -w 1", SocketAddr::new(endpoint, 0))?;
    }
    tool::run(node, "ipvsadm", &["-R"], &services)
}

/// What kube-proxy's nftables mode makes of a Service with an external address and ten endpoints: the chains and maps that
/// every packet of such a Service meets. Traffic from outside is masqueraded (`externalTrafficPolicy: Cluster`).
pub fn kube_proxy(site: &Site) -> Result<()> {
    let (ip, vip) = (nft_family(site.family), site.vip());
    let any = format!("{ip} daddr . meta l4proto . th dport vmap");
    let choices: Vec<String> = (0..ENDPOINTS).map(|n| format!("{n} : goto endpoint-{n}")).collect();
    let endpoints: String = (0..ENDPOINTS).map(|n| endpoint_chain(site, n)).collect();
    let kind = format!("type {}_addr . inet_proto . inet_service : verdict;", nft_type(site.family));
    let rules = format!(
        "
table {ip} kube-proxy {{
    map no-endpoint-services {{ {kind} }}
    map firewall-ips {{ {kind} }}
    map service-ips {{
        {kind}
        elements = {{ {vip} . udp . {PORT} : goto external-echo }}
    }}
    set cluster-ips {{ type {addr}_addr; }}
    chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
    chain masquerading {{
        meta mark & 0x4000 == 0 return
        meta mark set meta mark xor 0x4000
        masquerade fully-random
    }}{endpoints}
    chain service-echo {{ numgen random mod {ENDPOINTS} vmap {{ {choices} }}; }}
    chain external-echo {{
        jump mark-for-masquerade
        goto service-echo
    }}
    chain services {{ {any} @service-ips; }}
    chain service-endpoints-check {{ {any} @no-endpoint-services; }}
    chain firewall-check {{ {any} @firewall-ips; }}
    chain cluster-ips-check {{ {ip} daddr @cluster-ips reject; }}
    chain filter-prerouting-pre-dnat {{
        type filter hook prerouting priority -110;
        ct state new jump firewall-check
    }}
    chain filter-forward {{
        type filter hook forward priority -110;
        ct state new jump service-endpoints-check
        ct state new jump cluster-ips-check
    }}
    chain nat-prerouting {{
        type nat hook prerouting priority dstnat;
        jump services
    }}
    chain nat-postrouting {{
        type nat hook postrouting priority srcnat;
        jump masquerading
    }}
}}
",
        choices = choices.join(", "),
        addr = nft_type(site.family),
    );
    nft::load(site.node().netns(), &rules)
}

fn endpoint_chain(site: &Site, n: u8) -> String {
    let (ip, address) = (nft_family(site.family), site.endpoint(n));
    let target = SocketAddr::new(address, PORT);
    format!(
        "
    chain endpoint-{n} {{
        {ip} saddr {address} jump mark-for-masquerade
        meta l4proto udp dnat to {target}
    }}"
    )
}

/// As nft calls it.
fn nft_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The first part of the name of nft's type of addresses.
fn nft_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// The option of `ip` that says so.
fn ip_flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}
