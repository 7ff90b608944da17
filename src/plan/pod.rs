//! What a pod's network namespace must hold so that its VIPs live there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::nft::pod::{PodTable, Tunnels};
use super::observed::ObservedLink;
use super::{Address, Desired, LabelRoute, LinkKind, Observed, Settings, Sysctl, SysctlWant};
use crate::model::{Addresses, Family, Mode};

/// TCP header without options (RFC 9293 §3.1); with the IP header, what an MSS leaves out (§3.7.1).
const TCP_HEADER: u32 = 20;
/// MTU that is assumed where the device does not say.
const USUAL_MTU: u32 = 1500;
/// How long the repair of a wildcard UDP server remembers who asked once, in seconds: as long as resolvers wait.
const REPAIRED_UDP: u32 = 5;

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
    /// Addresses of the endpoints that the maps of its VIPs name: they may forward packets to it.
    pub peers: BTreeSet<IpAddr>,
    /// The kernel's id of the program that gives packets their second chance; `None` if it cannot be loaded.
    pub program: Option<u32>,
}

impl PodInput {
    /// The same without the VIPs that need a mode which the pod `lacks`, and the modes of those.
    pub fn without(&self, lacks: impl Fn(Mode) -> bool, settings: &Settings) -> (PodInput, BTreeSet<Mode>) {
        let asked: BTreeSet<Mode> = self.vips.values().copied().collect();
        let left_out: BTreeSet<Mode> = asked.into_iter().filter(|mode| settings.needs(*mode).any(&lacks)).collect();
        let vips = self.vips.iter().filter(|(_, mode)| !left_out.contains(mode));
        (PodInput { vips: vips.map(|(vip, mode)| (*vip, *mode)).collect(), ..self.clone() }, left_out)
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
    /// Another device takes the packets.
    #[error(
        "device {name} in the pod already takes all packets of `{kind}`, and the kernel allows one such device: remove it or \
         use mode vxlan"
    )]
    ExternalGre {
        /// Name of the other device.
        name: String,
        /// What both are.
        kind: LinkKind,
    },
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
    let modes: BTreeSet<Mode> = input.vips.values().copied().collect();
    let carriers = modes.iter().flat_map(|mode| settings.needs(*mode)).collect();
    let mut build = Build { input, observed, settings, carriers, desired: Desired::default() };
    build.tunnels();
    build.check_gre()?;
    if modes.contains(&Mode::Mpls) {
        build.mpls(device);
    }
    for (vip, mode) in &input.vips {
        build.vip(*vip, *mode);
    }
    build.keep_silent();
    build.desired.nft = Some(build.table(device).table());
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
    /// Every mode in which packets may come: those of the VIPs, and what carries lists of names for them.
    carriers: BTreeSet<Mode>,
    desired: Desired,
}

impl Build<'_> {
    /// The tunnel devices, one for each mode and outer family, with the program on each.
    fn tunnels(&mut self) {
        for (mode, outer) in self.carriers.iter().flat_map(|mode| self.input.outer.iter().map(|outer| (*mode, *outer)))
        {
            let kind = match (mode, self.input.addresses.of(outer)) {
                (Mode::Gre, Some(_)) => LinkKind::GreExternal(outer),
                (Mode::Vxlan, _) => LinkKind::VxlanGpe { port: self.settings.vxlan_port },
                (Mode::Gre, None) | (Mode::Mpls, _) => continue,
            };
            let Some(name) = self.settings.pod_link(mode, outer) else { continue };
            // Loose, not off: the effective value is the maximum of `all` and the device, so 0 would not help where all is 1.
            self.desired.sysctls.insert(Sysctl::RpFilter(name.clone()), SysctlWant::Exactly(2));
            if self.has_vip(Family::V6) {
                // Runtimes switch IPv6 off in pods without an address of it.
                self.desired.sysctls.insert(Sysctl::DisableIpv6(name.clone()), SysctlWant::Exactly(0));
            }
            self.desired.filters.extend(self.input.program.map(|program| (name.clone(), program)));
            self.desired.links.insert(name, kind);
        }
    }

    /// A namespace has one external GRE device for each family. Without it nothing is written: the table would keep from the
    /// other device what it is there for.
    fn check_gre(&self) -> Result<(), UnfitPod> {
        for (own, kind) in self.desired.links.iter().filter(|(_, kind)| matches!(kind, LinkKind::GreExternal(_))) {
            let other = |(name, link): &(&String, &ObservedLink)| *name != own && link.kind.as_ref() == Some(kind);
            if let Some((name, _)) = self.observed.links.iter().find(other) {
                return Err(UnfitPod::ExternalGre { name: name.clone(), kind: kind.clone() });
            }
        }
        Ok(())
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

    /// The VIP on every device that its packets come in by. On a device without an IPv4 address, loose reverse path filtering
    /// is as strict as strict (`__fib_validate_source`, net/ipv4/fib_frontend.c). IPv6 has no such filter: one device is
    /// enough.
    fn vip(&mut self, vip: IpAddr, mode: Mode) {
        let made: BTreeSet<String> = self.settings.needs(mode).flat_map(|mode| self.made(mode)).collect();
        let devices = (mode == Mode::Mpls).then(|| "lo".to_owned()).into_iter().chain(made);
        let needed = if vip.is_ipv4() { usize::MAX } else { 1 };
        self.desired.addresses.extend(devices.take(needed).map(|dev| Address { dev, address: vip }));
    }

    /// The tunnel devices of a mode.
    fn made(&self, mode: Mode) -> Vec<String> {
        let names = self.input.outer.iter().filter_map(|outer| self.settings.pod_link(mode, *outer));
        names.filter(|name| self.desired.links.contains_key(name)).collect()
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

    fn table(&self, device: &str) -> PodTable {
        let mut tunnels = Tunnels { mpls: self.carriers.contains(&Mode::Mpls), ..Tunnels::default() };
        for kind in self.desired.links.values() {
            match kind {
                LinkKind::GreExternal(outer) => drop(tunnels.gre.insert(*outer)),
                LinkKind::VxlanGpe { port } => tunnels.vxlan = Some(*port),
                LinkKind::GreLocal(_) => {}
            }
        }
        PodTable {
            node: self.settings.node_name.clone(),
            vips: self.input.vips.keys().copied().collect(),
            nodes: self.input.nodes.clone(),
            peers: self.input.peers.clone(),
            pod: self.own_addresses(device),
            tunnels,
            mss: self.mss(device),
            udp_timeout: self.settings.limits_udp.then_some(REPAIRED_UDP),
            link_prefix: self.settings.link_prefix.to_string(),
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
    fn mss(&self, device: &str) -> BTreeMap<Family, u32> {
        let own = self.observed.links.get(device).map_or(USUAL_MTU, |l| l.mtu);
        let mtu = self.input.underlay_mtu.map_or(own, |underlay| underlay.min(own));
        let overheads =
            self.carriers.iter().flat_map(|mode| self.input.outer.iter().map(|outer| mode.overhead(*outer)));
        let overhead = overheads.max().unwrap_or(0);
        let families = Family::ALL.into_iter().filter(|family| self.has_vip(*family));
        families.map(|family| (family, mtu.saturating_sub(overhead + family.header() + TCP_HEADER))).collect()
    }
}
