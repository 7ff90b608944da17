//! The frames that come to the pod, as an ingress node sends them.

use std::net::IpAddr;

use anyhow::{Result, bail};
use tunnel_router::model::Mode;
use tunnel_router::model::second_chance::TunnelId;

use super::super::site::VXLAN_PORT;
use super::site::PodSite;
use crate::traffic::FrameSender;
use crate::traffic::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, GRE, Ipv4, Ipv6, Segment, TCP, UDP};

/// In the first two bytes of a GRE header: four bytes of key follow (RFC 2890).
const GRE_KEY: u16 = 0x2000;
/// Outer source port; any does.
const VXLAN_SOURCE: u16 = 55_555;

/// Sends segments through the tunnel.
pub struct Sender {
    frames: FrameSender,
    mac: [u8; 6],
    mode: Mode,
    ends: (IpAddr, IpAddr),
}

impl Sender {
    /// A sender in the node's place.
    pub async fn open(site: &PodSite, mode: Mode) -> Result<Sender> {
        let ends = (site.node_address(), site.pod_address());
        Ok(Sender { frames: site.frames()?, mac: site.pod_mac().await?, mode, ends })
    }

    /// Sends a segment this often.
    pub fn send(&self, id: TunnelId, segment: &Segment, times: usize) -> Result<()> {
        let inner = ip((segment.source.ip(), segment.destination.ip()), TCP, segment.to_bytes())?;
        let (protocol, payload) = match self.mode {
            Mode::Gre => (GRE, gre(id, ethertype(segment.source.ip()), inner)),
            Mode::Vxlan => (UDP, vxlan(id, segment.source.ip(), inner)),
            Mode::Mpls => bail!("MPLS carries no tunnel id"),
        };
        let outer = ip(self.ends, protocol, payload)?;
        self.frames.send_often(self.mac, ethertype(self.ends.0), &outer, times)
    }
}

/// With a key only if it says something, as the routes of tunnel-router do it.
fn gre(id: TunnelId, ethertype: u16, inner: Vec<u8>) -> Vec<u8> {
    let has_key = id != TunnelId::OWNER_ALONE;
    let (flags, key) = if has_key { (GRE_KEY, id.bits().to_be_bytes().to_vec()) } else { (0, Vec::new()) };
    [flags.to_be_bytes().to_vec(), ethertype.to_be_bytes().to_vec(), key, inner].concat()
}

/// UDP without a checksum, and VXLAN-GPE.
fn vxlan(id: TunnelId, address: IpAddr, inner: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(8 + 8 + inner.len()).unwrap_or(u16::MAX);
    let udp = [VXLAN_SOURCE, VXLAN_PORT, length, 0].map(u16::to_be_bytes).concat();
    // Flags: instance and next protocol are valid; next protocol 1 is IPv4, 2 is IPv6.
    let next = if address.is_ipv4() { 1 } else { 2 };
    [udp, vec![0x0c, 0, 0, next], (id.bits() << 8).to_be_bytes().to_vec(), inner].concat()
}

fn ethertype(address: IpAddr) -> u16 {
    if address.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }
}

fn ip(ends: (IpAddr, IpAddr), protocol: u8, payload: Vec<u8>) -> Result<Vec<u8>> {
    match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) => Ok(Ipv4::new(from, to, protocol, payload).to_bytes()),
        (IpAddr::V6(from), IpAddr::V6(to)) => Ok(Ipv6::new(from, to, protocol, payload).to_bytes()),
        (from, to) => bail!("no packet goes from {from} to {to}"),
    }
}
