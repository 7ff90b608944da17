//! Errors from the network about packets that a pod sent from a VIP, as a router far away sends them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, bail};

use super::RawSender;
use super::packet::{ICMP, ICMPV6, Ipv4, Ipv6, checksum};

const TCP: u8 = 6;
/// Some router of the internet.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1);
/// Unreachable host, time exceeded, too big, parameter problem: type and code.
const ERRORS: [[u8; 2]; 4] = [[3, 1], [11, 0], [3, 4], [12, 0]];
const ERRORS6: [[u8; 2]; 4] = [[1, 3], [3, 0], [2, 0], [4, 0]];

/// What is quoted of the segment that the pod sent: ports, and a sequence number that tells the flows apart.
fn segment(n: usize, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    [&from.port().to_be_bytes()[..], &to.port().to_be_bytes(), &marker(n)].concat()
}

fn marker(n: usize) -> [u8; 4] {
    (0x5eed_0000 + u32::try_from(n).unwrap_or(u32::MAX)).to_be_bytes()
}

/// Type, code, checksum, and the four bytes before the quotation, which hold an MTU where there is one.
fn message([kind, code]: [u8; 2], mtu: u32, pseudo: &[u8], quoted: &[u8]) -> Vec<u8> {
    let body = [&[kind, code, 0, 0][..], &mtu.to_be_bytes(), quoted].concat();
    let sum = checksum(&[pseudo, &body].concat()).to_be_bytes();
    [&body[..2], &sum, &body[4..]].concat()
}

fn error_v4(n: usize, router: Ipv4Addr, vip: (Ipv4Addr, SocketAddr), client: (Ipv4Addr, SocketAddr)) -> Ipv4 {
    let quoted = Ipv4::new(vip.0, client.0, TCP, segment(n, vip.1, client.1)).to_bytes();
    Ipv4::new(router, vip.0, ICMP, message(ERRORS[n % 4], 1400, &[], &quoted))
}

fn error_v6(n: usize, router: Ipv6Addr, vip: (Ipv6Addr, SocketAddr), client: (Ipv6Addr, SocketAddr)) -> Ipv6 {
    let quoted = Ipv6::new(vip.0, client.0, TCP, segment(n, vip.1, client.1)).to_bytes();
    let length = u32::try_from(8 + quoted.len()).unwrap_or_default();
    let ends = [router.octets(), vip.0.octets()].concat();
    let pseudo = [&ends[..], &length.to_be_bytes(), &[0, 0, 0, ICMPV6]].concat();
    Ipv6::new(router, vip.0, ICMPV6, message(ERRORS6[n % 4], 1400, &pseudo, &quoted))
}

/// The number of the flow whose error is in there, however deep it is wrapped.
pub fn flow_in(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(4).position(|w| w[..2] == marker(0)[..2])?;
    Some(usize::from(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?])))
}

/// Sends an error about flow number `n` (below 65,536) from the VIP to the client, of another kind for each of four.
pub fn send_error(sender: &RawSender, n: usize, vip: SocketAddr, client: SocketAddr) -> Result<()> {
    match (vip.ip(), client.ip()) {
        (IpAddr::V4(v), IpAddr::V4(c)) => sender.send(&error_v4(n, ROUTER, (v, vip), (c, client))),
        (IpAddr::V6(v), IpAddr::V6(c)) => sender.send(&error_v6(n, ROUTER6, (v, vip), (c, client))),
        other => bail!("mixed families: {other:?}"),
    }
}
