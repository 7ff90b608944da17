//! The userland twin of the flow hash against the kernel's `jhash`, packet by packet; also for flows that come back quoted
//! in ICMP errors.
//!
//! Crafted packets leave a namespace through an nft table whose rules are those of the product. Every rule writes the mark
//! that it computed into a set, beside what identifies the packet.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::named::Netns;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use tunnel_router::model::Family;
use tunnel_router::model::hash::{bucket, hash_expr};
use tunnel_router::model::{BucketCount, Flow, MarkField};
use tunnel_router::plan::icmp::{
    error_hash_expr, error_match, quoted_element, quoted_map_type, quotes_ports, source_from_vip,
};

/// Mask of the field, number of buckets, seed.
const SHAPES: [(u32, u32, u32); 8] = [
    (0xff, 64, 0x6b73_7431),
    (0xff, 64, 0),
    (0x3f, 16, 1),
    (0x3f00, 16, 0xdead_beef),
    (0x7f, 32, u32::MAX),
    (0x1ff, 128, 0x8000_0000),
    (0xff00_0000, 64, 0x0102_0304),
    (0xff80_0000, 128, 7),
];

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// A protocol without ports.
const GRE: u8 = 47;

fn shape(index: usize) -> (MarkField, BucketCount, u32) {
    let (mask, count, seed) = SHAPES[index];
    let buckets = BucketCount::new(count).unwrap();
    (MarkField::new(mask, buckets).unwrap(), buckets, seed)
}

fn expected_mark(index: usize, flow: &Flow) -> u32 {
    let (field, buckets, seed) = shape(index);
    field.mark(bucket(flow, buckets, seed))
}

/// splitmix64: the same packets in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().to_le_bytes()[0])
    }

    fn port(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes())
    }

    /// A unicast address that no table of the namespace treats specially.
    fn address(&mut self, family: Family) -> IpAddr {
        match family {
            Family::V4 => {
                let [a, b, c, d] = self.bytes();
                Ipv4Addr::new(11 + a % 100, b, c, d).into()
            }
            Family::V6 => {
                let mut octets: [u8; 16] = self.bytes();
                octets[..2].copy_from_slice(&[0x20, 0x01]);
                Ipv6Addr::from(octets).into()
            }
        }
    }

    fn flow(&mut self, family: Family, protocol: u8) -> Flow {
        let ports = (protocol != GRE).then(|| (self.port(), self.port()));
        Flow { src: self.address(family), dst: self.address(family), ports }
    }
}

/// The packet of a flow: an IP header and `payload`.
fn ip_packet(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let [hi, lo] = (20 + length).to_be_bytes();
            let fixed = [0x45, 0, hi, lo, 0, 1, 0x40, 0, 64, protocol, 0, 0];
            [&fixed[..], &src.octets(), &dst.octets()].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let [hi, lo] = length.to_be_bytes();
            let fixed = [0x60, 0, 0, 0, hi, lo, protocol, 64];
            [&fixed[..], &src.octets(), &dst.octets()].concat()
        }
        mixed => panic!("{mixed:?}"),
    };
    packet.extend(payload);
    packet
}

/// What follows the IP header: ports, if any, and enough bytes for every header that looks at them.
fn transport(ports: Option<(u16, u16)>) -> Vec<u8> {
    let (src, dst) = ports.unwrap_or((0x1111, 0x2222));
    let mut payload = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    payload.resize(20, 0x5a);
    payload
}

/// The packet as the client sends it.
fn packet_of(flow: &Flow, protocol: u8) -> Vec<u8> {
    ip_packet(flow.src, flow.dst, protocol, &transport(flow.ports))
}

/// An ICMP error from `router` about the VIP's answer to the flow, with the 8 bytes that every router quotes.
fn icmp_error_about(flow: &Flow, protocol: u8, kind: u8, router: IpAddr) -> Vec<u8> {
    let turned = flow.ports.map(|(src, dst)| (dst, src));
    let answer = ip_packet(flow.dst, flow.src, protocol, &transport(turned));
    let quoted = &answer[..answer.len() - 12];
    let header = [kind, 0, 0, 0, 0, 0, 0x05, 0x14];
    let icmp = if router.is_ipv4() { 1 } else { 58 };
    ip_packet(router, flow.dst, icmp, &[&header, quoted].concat())
}

/// A namespace whose packets all leave through a device that needs no neighbours, and the sockets to send them.
struct Lab {
    netns: Netns,
    v4: OwnedFd,
    v6: OwnedFd,
}

impl Lab {
    fn new(test: &str, ruleset: &str) -> Lab {
        let netns = Netns::new(test);
        netns.ip("link add kst-a type veth peer name kst-b\nlink set kst-a arp off up\nlink set kst-b up\n");
        // The kernel asks for a source, and would have a link-local one some time after the device is up.
        netns.ip("link set lo up\naddr add fd00::1/128 dev lo nodad\n");
        netns.run("ip -4 route add default dev kst-a", "");
        netns.run("ip -6 route add default dev kst-a", "");
        netns.run("nft -f -", ruleset);
        let raw =
            |family| netns.open(move || socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap());
        let (v4, v6) = (raw(AddressFamily::Inet), raw(AddressFamily::Inet6));
        Lab { netns, v4, v6 }
    }

    fn send(&self, dst: IpAddr, packet: &[u8]) {
        match dst {
            IpAddr::V4(dst) => {
                let to = SockaddrIn::from(SocketAddrV4::new(dst, 0));
                sendto(self.v4.as_raw_fd(), packet, &to, MsgFlags::empty()).unwrap();
            }
            IpAddr::V6(dst) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(dst, 0, 0, 0));
                sendto(self.v6.as_raw_fd(), packet, &to, MsgFlags::empty()).unwrap();
            }
        }
    }

    /// The elements of a set whose last field is the mark: what comes before it → the mark.
    fn seen(&self, set: &str) -> BTreeMap<String, u32> {
        let listed = self.netns.run(&format!("nft -j list set inet twin {set}"), "");
        let json: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let objects = json["nftables"].as_array().unwrap();
        let elements = objects.iter().find_map(|o| o["set"]["elem"].as_array()).cloned().unwrap_or_default();
        let fields = elements.iter().map(|element| {
            let value = if element["elem"].is_null() { element } else { &element["elem"]["val"] };
            value["concat"].as_array().unwrap()
        });
        fields
            .map(|fields| {
                let (mark, key) = fields.split_last().unwrap();
                let mark = u32::try_from(mark.as_u64().unwrap()).unwrap();
                (
                    key.iter()
                        .map(|k| k.as_str().map_or_else(|| k.to_string(), str::to_owned))
                        .collect::<Vec<_>>()
                        .join(" "),
                    mark,
                )
            })
            .collect()
    }
}

/// The key under which [`Lab::seen`] has the flow.
fn key(flow: &Flow) -> String {
    let ports = flow.ports.map_or(String::new(), |(src, dst)| format!(" {src} {dst}"));
    format!("{} {}{ports}", flow.src, flow.dst)
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// A table with one rule and one set per shape: `rule` is what the packet must match, `expr` what is hashed, `key` what
/// identifies it.
fn ruleset(family: Family, vips: &[IpAddr], rules: &[(&str, &str, &str, &str)]) -> String {
    let addresses = format!("ipv{}_addr", if family == Family::V4 { 4 } else { 6 });
    let elements: Vec<String> = vips.iter().map(ToString::to_string).collect();
    let elements = if vips.is_empty() { String::new() } else { format!("elements = {{ {} }};", elements.join(", ")) };
    let mut sets = format!("set vips {{ type {addresses}; {elements} }}\n");
    let mut chain = String::new();
    for (name, rule, expr, key) in rules {
        for index in 0..SHAPES.len() {
            let (field, buckets, seed) = shape(index);
            let statements = field.nft_statements(expr, buckets, seed).join(" ");
            writeln!(sets, "set {name}{index} {{ typeof {key} . meta mark; flags dynamic; size 65535; }}").unwrap();
            writeln!(chain, "{rule} {statements} update @{name}{index} {{ {key} . meta mark }}").unwrap();
        }
    }
    format!("table inet twin {{\n{sets}chain out {{ type filter hook output priority raw;\n{chain}}}\n}}\n")
}

/// Sends `count` flows of every protocol and compares every shape.
fn compare_flows(test: &str, family: Family, count: usize) {
    let ip = ip(family);
    let with_ports = "meta l4proto { tcp, udp, sctp }";
    let (both, alone) = (format!("{ip} saddr . {ip} daddr . th sport . th dport"), format!("{ip} saddr . {ip} daddr"));
    let rules = [
        ("ports", with_ports, hash_expr(family, true), both.as_str()),
        // What client-IP affinity hashes, of the same packets.
        ("affinity", with_ports, hash_expr(family, false), both.as_str()),
        ("alone", "meta l4proto 47", hash_expr(family, false), alone.as_str()),
    ];
    let lab = Lab::new(test, &ruleset(family, &[], &rules));
    let mut random = Random(1);
    let flows: Vec<(u8, Flow)> =
        [TCP, UDP, SCTP, GRE].iter().cycle().take(count).map(|p| (*p, random.flow(family, *p))).collect();
    for (protocol, flow) in &flows {
        lab.send(flow.dst, &packet_of(flow, *protocol));
    }
    for (index, shape) in SHAPES.iter().enumerate() {
        let expected = |ports: bool, hash_ports: bool| -> BTreeMap<String, u32> {
            let of_kind = flows.iter().map(|(_, flow)| flow).filter(|flow| flow.ports.is_some() == ports);
            let hashed = |flow: &Flow| Flow { ports: flow.ports.filter(|_| hash_ports), ..*flow };
            of_kind.map(|flow| (key(flow), expected_mark(index, &hashed(flow)))).collect()
        };
        assert_eq!(lab.seen(&format!("ports{index}")), expected(true, true), "{shape:x?}");
        assert_eq!(lab.seen(&format!("affinity{index}")), expected(true, false), "{shape:x?}");
        assert_eq!(lab.seen(&format!("alone{index}")), expected(false, false), "{shape:x?}");
    }
}

#[test]
fn the_twin_finds_the_kernels_mark_for_a_thousand_ipv4_flows() {
    compare_flows("hash4", Family::V4, 1000);
}

#[test]
fn the_twin_finds_the_kernels_mark_for_ipv6_flows() {
    compare_flows("hash6", Family::V6, 400);
}

/// The rules for ICMP errors about packets of VIPs, with and without ports, as the data path needs them.
fn error_rules(family: Family) -> [String; 2] {
    let (errors, ports) = (error_match(family), quotes_ports(family));
    let to_vip = format!("{} daddr @vips {errors}", ip(family));
    [format!("{to_vip} {ports}"), format!("{to_vip} {}", ports.replace('{', "!= {"))]
}

/// Sends an ICMP error about each of `count` flows, each from another router, and compares every shape with the mark of the
/// flow's own packets.
fn compare_errors(test: &str, family: Family, kinds: &[u8], count: usize) {
    let mut random = Random(2);
    let protocols = [TCP, UDP, SCTP, GRE].iter().cycle();
    let flows: Vec<(u8, u8, Flow, IpAddr)> = (0..count)
        .zip(protocols.zip(kinds.iter().cycle()))
        .map(|(_, (p, kind))| (*p, *kind, random.flow(family, *p), random.address(family)))
        .collect();
    let vips: Vec<IpAddr> = flows.iter().map(|(_, _, flow, _)| flow.dst).collect();
    let [with_ports, without] = error_rules(family);
    let router = format!("{0} saddr . {0} daddr", ip(family));
    let rules = [
        ("ports", with_ports.as_str(), error_hash_expr(family, true), router.as_str()),
        ("alone", without.as_str(), error_hash_expr(family, false), router.as_str()),
    ];
    let lab = Lab::new(test, &ruleset(family, &vips, &rules));
    for (protocol, kind, flow, router) in &flows {
        lab.send(flow.dst, &icmp_error_about(flow, *protocol, *kind, *router));
    }
    for (index, shape) in SHAPES.iter().enumerate() {
        for (name, ports) in [("ports", true), ("alone", false)] {
            let of_kind = flows.iter().filter(|(_, _, flow, _)| flow.ports.is_some() == ports);
            let expected: BTreeMap<String, u32> = of_kind
                .map(|(_, _, flow, router)| (format!("{router} {}", flow.dst), expected_mark(index, flow)))
                .collect();
            assert_eq!(lab.seen(&format!("{name}{index}")), expected, "{shape:x?}");
        }
    }
}

#[test]
fn an_icmp_error_gets_the_mark_of_the_flow_that_it_quotes() {
    compare_errors("icmp4", Family::V4, &[3, 11, 12], 400);
}

#[test]
fn an_icmpv6_error_gets_the_mark_of_the_flow_that_it_quotes() {
    compare_errors("icmp6", Family::V6, &[1, 2, 3, 4], 200);
}

#[test]
fn an_error_about_somebody_else_or_with_options_in_the_quoted_header_is_left_alone() {
    let mut random = Random(3);
    let (ours, foreign, router) =
        (random.flow(Family::V4, UDP), random.flow(Family::V4, UDP), random.address(Family::V4));
    let [with_ports, _] = error_rules(Family::V4);
    let rules = [("ports", with_ports.as_str(), error_hash_expr(Family::V4, true), "ip saddr . ip daddr")];
    let lab = Lab::new("icmp4-none", &ruleset(Family::V4, &[ours.dst], &rules));
    lab.send(foreign.dst, &icmp_error_about(&foreign, UDP, 3, router));
    let mut with_options = icmp_error_about(&ours, UDP, 3, router);
    with_options[28] = 0x46;
    lab.send(ours.dst, &with_options);
    let mut echo = icmp_error_about(&ours, UDP, 8, router);
    lab.send(ours.dst, &echo);
    assert_eq!(lab.seen("ports0"), BTreeMap::new());
    echo[20] = 3;
    lab.send(ours.dst, &echo);
    assert_eq!(lab.seen("ports0").len(), 1, "the same packet as an error is seen");
}

/// Sends the error that a router makes when it cannot deliver a packet to a VIP, and one about somebody else's packet.
fn compare_sources(test: &str, family: Family, kind: u8) {
    let mut random = Random(4);
    let (ours, foreign, router) = (random.flow(family, UDP), random.flow(family, UDP), random.address(family));
    let (ip, quoted, vip) = (ip(family), quoted_map_type(family), quoted_element(ours.dst));
    let rule = source_from_vip(family, "quoted");
    let lab = Lab::new(
        test,
        &format!(
            "table inet twin {{
             map quoted {{ {quoted}; elements = {{ {vip} }}; }}
             set sources {{ typeof {ip} saddr . {ip} daddr . meta mark; flags dynamic; size 65535; }}
             chain out {{ type filter hook output priority raw;
             {rule}
             meta l4proto {{ icmp, ipv6-icmp }} update @sources {{ {ip} saddr . {ip} daddr . meta mark }}
             }}
             }}\n"
        ),
    );
    for flow in [ours, foreign] {
        let undeliverable = Flow { src: flow.dst, dst: flow.src, ports: flow.ports };
        lab.send(flow.src, &icmp_error_about(&undeliverable, UDP, kind, router));
    }
    let seen = lab.seen("sources");
    for expected in [format!("{} {}", ours.dst, ours.src), format!("{router} {}", foreign.src)] {
        assert!(seen.contains_key(&expected), "{expected} in {seen:?}");
    }
    assert!(!seen.contains_key(&format!("{router} {}", ours.src)), "{seen:?}");
}

#[test]
fn an_error_about_a_packet_to_a_vip_comes_from_the_vip() {
    compare_sources("icmp4-source", Family::V4, 3);
}

#[test]
fn an_ipv6_error_about_a_packet_to_a_vip_comes_from_the_vip() {
    compare_sources("icmp6-source", Family::V6, 2);
}

/// The statements as the kernel's listing gives them back: what is written is what is read.
#[test]
fn the_statements_survive_a_listing() {
    let rules = [
        ("ports", "meta l4proto { tcp, udp, sctp }", hash_expr(Family::V4, true), "ip saddr"),
        ("error", error_match(Family::V4), error_hash_expr(Family::V4, true), "ip saddr"),
    ];
    let lab = Lab::new("hash-list", &ruleset(Family::V4, &[], &rules));
    let listed = lab.netns.run("nft list chain inet twin out", "");
    for index in 0..SHAPES.len() {
        let (field, buckets, seed) = shape(index);
        for (_, _, expr, _) in rules {
            let statements = field.nft_statements(expr, buckets, seed).join(" ");
            assert!(listed.contains(&statements), "{statements}\n{listed}");
        }
    }
}
