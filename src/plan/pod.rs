//! What a pod's network namespace must hold so that its VIPs live there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::nft::onward::OnwardTable;
use super::nft::pod::{PodTable, Tunnels};
use super::{
    Address, Desired, LabelRoute, LinkKind, Nexthop, Observed, RouteKey, RouteTarget, RuleAction, RuleSpec, Settings,
    Sysctl, SysctlWant,
};
use crate::model::hash::jhash;
use crate::model::{Addresses, Bucket, Family, Flows, Mode};

/// TCP header without options (RFC 9293 §3.1); with the IP header, what an MSS leaves out (§3.7.1).
const TCP_HEADER: u32 = 20;
/// No limit: what came through one tunnel goes on through another, whose outer packets may be fragmented. More than this the
/// kernel does not keep (`ip_metrics_convert`, net/ipv4/metrics.c).
const ANY_MTU: u32 = 65_520;
/// MTU that is assumed where the device does not say.
const USUAL_MTU: u32 = 1500;

/// What is asked of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInput {
    /// Its VIPs and how each arrives; empty when it has lost the last one.
    pub vips: BTreeMap<IpAddr, Mode>,
    /// The pod's own addresses, at least one.
    pub addresses: Addresses,
    /// The families in which ingress nodes send to it.
    pub outer: BTreeSet<Family>,
    /// Addresses of all nodes.
    pub nodes: BTreeSet<IpAddr>,
    /// MTU of the narrowest way between this node and the ingress nodes, in bytes, if any is known: a pod's device may be
    /// wider than what lies below it.
    pub underlay_mtu: Option<u32>,
    /// What it passes on to others, and from whom it takes what others pass on.
    pub drain: PodDrain,
}

/// The part of a pod in buckets that drain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodDrain {
    /// For a VIP and a bucket that this pod had, the addresses of the pod that is asked next.
    pub onward: BTreeMap<(IpAddr, Bucket), Addresses>,
    /// How flows of these VIPs become buckets, and whether by addresses only (ClientIP affinity).
    pub hashed: BTreeMap<IpAddr, (Flows, bool)>,
    /// Addresses of pods that pass packets on to this one.
    pub peers: BTreeSet<IpAddr>,
}

impl PodDrain {
    fn is_empty(&self) -> bool {
        self.onward.is_empty() && self.peers.is_empty()
    }
}

/// Nothing can be set up in the pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnfitPod {
    /// The pod has no device with its address.
    #[error("no device in the pod's network namespace has the pod's address {0}")]
    NoDevice(Addresses),
    /// All that arrives is handed to a virtual machine.
    #[error(
        "device {0} hands the pod's packets to a virtual machine (Kata Containers); \
         run the pod with a RuntimeClass of runc or crun"
    )]
    VirtualMachine(String),
}

/// How Kata Containers ends the names of the devices that lead to its virtual machine: `tap0_kata`, `br0_kata`.
const KATA: &str = "_kata";

/// The desired state of a pod's namespace.
///
/// # Errors
/// [`UnfitPod`]: if the pod's address is not there, it is not (or no longer) the namespace of that pod.
pub fn desired_pod(input: &PodInput, observed: &Observed, settings: &Settings) -> Result<Desired, UnfitPod> {
    if input.vips.is_empty() {
        return Ok(Desired::default());
    }
    if let Some(device) = observed.links.keys().find(|name| name.ends_with(KATA)) {
        return Err(UnfitPod::VirtualMachine(device.clone()));
    }
    let device = device(input.addresses, observed).ok_or(UnfitPod::NoDevice(input.addresses))?;
    let mut build = Build { input, observed, settings, desired: Desired::default() };
    let modes: BTreeSet<Mode> = input.vips.values().copied().collect();
    for (mode, outer) in modes.iter().flat_map(|mode| input.outer.iter().map(move |outer| (*mode, *outer))) {
        build.entrance(mode, outer);
    }
    if modes.contains(&Mode::Mpls) {
        build.mpls(device);
    }
    for (vip, mode) in &input.vips {
        build.vip(*vip, *mode);
    }
    let onward = build.pass_on();
    build.keep_silent();
    let table = build.table(&modes, device, onward.is_some());
    if let Some(onward) = onward.filter(|onward| !onward.next.is_empty()) {
        build.desired.frames = OnwardTable { entrances: table.entrances(), ..onward }.tables();
    }
    build.desired.nft = Some(table.table());
    Ok(build.desired)
}

/// The device that has the pod's address.
fn device(pod: Addresses, observed: &Observed) -> Option<&str> {
    let found = |wanted| observed.addresses.iter().find(|(a, _, ours)| a.address == wanted && !ours);
    pod.iter().find_map(found).map(|(a, _, _)| a.dev.as_str())
}

struct Build<'a> {
    input: &'a PodInput,
    observed: &'a Observed,
    settings: &'a Settings,
    desired: Desired,
}

impl Build<'_> {
    /// The tunnel device of a mode, for outer packets of a family.
    fn entrance(&mut self, mode: Mode, outer: Family) {
        let kind = match (mode, self.input.addresses.of(outer)) {
            (Mode::Gre, Some(pod)) => LinkKind::GreLocal(pod),
            (Mode::Vxlan, _) => LinkKind::VxlanGpe { port: self.settings.vxlan_port },
            (Mode::Gre, None) | (Mode::Mpls, _) => return,
        };
        let Some(name) = self.settings.link(mode, outer) else { return };
        // Loose, not off: the effective value is the maximum of `all` and the device, so 0 would not help where all is 1.
        self.desired.sysctls.insert(Sysctl::RpFilter(name.clone()), SysctlWant::Exactly(2));
        if self.has_vip(Family::V6) {
            // Runtimes switch IPv6 off in pods without an address of it.
            self.desired.sysctls.insert(Sysctl::DisableIpv6(name.clone()), SysctlWant::Exactly(0));
        }
        self.desired.links.insert(name, kind);
    }

    fn has_vip(&self, family: Family) -> bool {
        self.input.vips.keys().any(|vip| Family::of(*vip) == family)
    }

    /// Popped packets appear on `lo`, from sources that no route leads to through `lo`.
    fn mpls(&mut self, device: &str) {
        let label = self.settings.labels.pop();
        let sysctls = &mut self.desired.sysctls;
        sysctls.insert(Sysctl::RpFilter("lo".to_owned()), SysctlWant::Exactly(2));
        sysctls.insert(Sysctl::MplsInput(device.to_owned()), SysctlWant::Exactly(1));
        sysctls.insert(Sysctl::PlatformLabels, SysctlWant::AtLeast(label + 1));
        if self.has_vip(Family::V6) {
            self.desired.sysctls.insert(Sysctl::DisableIpv6("lo".to_owned()), SysctlWant::Exactly(0));
        }
        self.desired.labels.insert(label, LabelRoute::Pop { dev: "lo".to_owned() });
    }

    /// The VIP on the device of its mode; where a mode has two, on the one for IPv4.
    fn vip(&mut self, vip: IpAddr, mode: Mode) {
        let entrances = self.input.outer.iter().filter_map(|outer| self.settings.link(mode, *outer));
        let made = entrances.filter(|name| self.desired.links.contains_key(name)).min();
        let dev = match mode {
            Mode::Mpls => Some("lo".to_owned()),
            Mode::Gre | Mode::Vxlan => made,
        };
        self.desired.addresses.extend(dev.map(|dev| Address { dev, address: vip }));
    }

    /// Packets that are passed on travel in VXLAN, whatever the mode: a pod cannot push labels towards pods of other nodes,
    /// and `gre local` takes the outer destination from the neighbour table. nft's `dup` looks up what stands for the next
    /// pod, which is nobody's address: no forwarding has to be enabled, and nothing that the pod sends itself goes that way.
    fn pass_on(&mut self) -> Option<OnwardTable> {
        if self.input.drain.is_empty() || self.settings.unavailable.contains_key(&Mode::Vxlan) {
            return None;
        }
        self.entrance(Mode::Vxlan, Family::V4);
        let device = self.settings.link(Mode::Vxlan, Family::V4)?;
        // On a device without an IPv4 address loose reverse path filtering is as strict as strict (`__fib_validate_source`).
        let vips = self.input.vips.keys().filter(|vip| vip.is_ipv4());
        self.desired.addresses.extend(vips.map(|vip| Address { dev: device.clone(), address: *vip }));
        let mut table = OnwardTable {
            node: self.settings.node_name.clone(),
            entrances: Vec::new(),
            mark: self.settings.mark,
            next: BTreeMap::new(),
            hashed: BTreeMap::new(),
        };
        for ((vip, bucket), next) in &self.input.drain.onward {
            let Some((flows, affinity)) = self.input.drain.hashed.get(vip) else { continue };
            let own = self.input.addresses;
            let Some(outer) = own.common(*next) else { continue };
            let (Some(src), Some(dst)) = (own.of(outer), next.of(outer)) else { continue };
            let family = Family::of(*vip);
            let token = token(family, *next);
            let key = RouteKey { table: self.settings.table_base, vip: token };
            let nexthop = Nexthop::EncapIp { family, dev: device.clone(), src, dst };
            self.desired.routes.insert(key, RouteTarget::Via { nexthop, mtu: ANY_MTU });
            self.desired.rules.insert(RuleSpec {
                family,
                priority: self.settings.rule_priority,
                mark: None,
                action: RuleAction::Lookup(self.settings.table_base),
            });
            table.next.insert((*vip, self.settings.mark.mark(*bucket)), token);
            table.hashed.entry((*flows, *affinity)).or_default().insert(*vip);
        }
        Some(table)
    }

    /// The pod must never claim a VIP on its LAN: another pod has it too. IPv6 never answers for an address of another
    /// device (`ndisc_recv_ns` in net/ipv6/ndisc.c).
    fn keep_silent(&mut self) {
        if !self.has_vip(Family::V4) {
            return;
        }
        let devices: BTreeSet<&String> = self
            .observed
            .addresses
            .iter()
            .map(|(a, _, _)| &a.dev)
            .filter(|d| !self.settings.link_prefix.is_of(d) && self.observed.links.get(*d).is_some_and(|l| !l.loopback))
            .collect();
        for device in devices {
            self.desired.sysctls.insert(Sysctl::ArpIgnore(device.clone()), SysctlWant::Exactly(1));
            self.desired.sysctls.insert(Sysctl::ArpAnnounce(device.clone()), SysctlWant::Exactly(2));
        }
    }

    fn table(&self, modes: &BTreeSet<Mode>, device: &str, drains: bool) -> PodTable {
        let gre = self.input.outer.iter().filter_map(|outer| self.input.addresses.of(*outer));
        PodTable {
            node: self.settings.node_name.clone(),
            vips: self.input.vips.keys().copied().collect(),
            nodes: self.input.nodes.clone(),
            pod: self.own_addresses(device),
            tunnels: Tunnels {
                gre: gre.filter(|_| modes.contains(&Mode::Gre)).collect(),
                vxlan: (modes.contains(&Mode::Vxlan) || drains).then_some(self.settings.vxlan_port),
                mpls: modes.contains(&Mode::Mpls),
            },
            mss: self.mss(modes, device),
            link_prefix: self.settings.link_prefix.to_string(),
            peers: self.input.drain.peers.iter().copied().filter(|_| drains).collect(),
        }
    }

    /// The pod's addresses, also those that its Services do not use: the family of a VIP need not be that of its slices.
    fn own_addresses(&self, device: &str) -> Addresses {
        let routed = |a: &IpAddr| !matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let here = self.observed.addresses.iter().filter(|(a, _, ours)| a.dev == device && !ours);
        let known = self.input.addresses.iter().chain(here.map(|(a, _, _)| a.address).filter(routed));
        Addresses::first_of(&known.collect::<Vec<_>>())
    }

    /// What fits through the narrowest tunnel, by family of the VIP.
    fn mss(&self, modes: &BTreeSet<Mode>, device: &str) -> BTreeMap<Family, u32> {
        let own = self.observed.links.get(device).map_or(USUAL_MTU, |l| l.mtu);
        let mtu = self.input.underlay_mtu.map_or(own, |underlay| underlay.min(own));
        let overheads = modes.iter().flat_map(|mode| self.input.outer.iter().map(|outer| mode.overhead(*outer)));
        let overhead = overheads.max().unwrap_or(0);
        let families = Family::ALL.into_iter().filter(|family| self.has_vip(*family));
        families.map(|family| (family, mtu.saturating_sub(overhead + family.header() + TCP_HEADER))).collect()
    }
}

/// What stands for a pod where an address of the VIP's family is looked up: one that nobody has, in 240.0.0.0/4 (reserved, RFC
/// 1112) or 100::/8 (reserved, RFC 4291), with the rest of the pod's own. It is never seen in a packet.
fn token(family: Family, pod: Addresses) -> IpAddr {
    match (family, pod.v4, pod.v6) {
        (Family::V4, Some(v4), _) => Ipv4Addr::from(0xf000_0000 | u32::from(v4) & 0x0fff_ffff).into(),
        (Family::V4, None, v6) => {
            Ipv4Addr::from(0xf000_0000 | jhash(&v6.map_or([0; 16], |v6| v6.octets()), 0) >> 4).into()
        }
        (Family::V6, _, Some(v6)) => Ipv6Addr::from(1 << 120 | u128::from(v6) & (u128::MAX >> 8)).into(),
        (Family::V6, v4, None) => Ipv6Addr::from(1 << 120 | u128::from(v4.map_or(0, u32::from))).into(),
    }
}
