//! What a pod's network namespace must hold so that its VIPs live there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::nft::pod::{PodTable, Tunnels};
use super::{Address, Desired, LabelRoute, LinkKind, Observed, Settings, Sysctl, SysctlWant};
use crate::model::Mode;

/// IPv4 and TCP header without options: what an MSS leaves out (RFC 9293 §3.7.1).
const HEADERS: u32 = 20 + 20;

/// What is asked of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInput {
    /// Its VIPs and how each arrives; empty when it has lost the last one.
    pub vips: BTreeMap<Ipv4Addr, Mode>,
    /// The pod's own address.
    pub address: Ipv4Addr,
    /// Addresses of all nodes.
    pub nodes: BTreeSet<Ipv4Addr>,
}

/// The pod has no device with its address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no device in the pod's network namespace has the pod's address {0}")]
pub struct NoPodDevice(pub Ipv4Addr);

/// The desired state of a pod's namespace.
///
/// # Errors
/// [`NoPodDevice`] if the pod's address is not there: it is not (or no longer) the namespace of that pod.
pub fn desired_pod(input: &PodInput, observed: &Observed, settings: &Settings) -> Result<Desired, NoPodDevice> {
    if input.vips.is_empty() {
        return Ok(Desired::default());
    }
    let device = observed
        .addresses
        .iter()
        .find(|(a, _, ours)| a.address == input.address && !ours)
        .map(|(a, _, _)| a.dev.clone())
        .ok_or(NoPodDevice(input.address))?;
    let mtu = observed.links.get(&device).map_or(1500, |l| l.mtu);
    let modes: BTreeSet<Mode> = input.vips.values().copied().collect();
    let mut desired = Desired::default();
    for mode in &modes {
        add_entrance(&mut desired, *mode, input.address, settings);
    }
    if modes.contains(&Mode::Mpls) {
        add_mpls(&mut desired, &device, settings);
    }
    for (vip, mode) in &input.vips {
        let dev = settings.link(*mode).unwrap_or_else(|| "lo".to_owned());
        desired.addresses.insert(Address { dev, address: *vip });
    }
    keep_silent(&mut desired, observed, settings);
    desired.nft = Some(pod_table(input, &modes, mtu, settings).table());
    Ok(desired)
}

fn add_entrance(desired: &mut Desired, mode: Mode, pod: Ipv4Addr, settings: &Settings) {
    let kind = match mode {
        Mode::Gre => LinkKind::GreLocal(pod),
        Mode::Vxlan => LinkKind::VxlanGpe { port: settings.vxlan_port },
        Mode::Mpls => return,
    };
    if let Some(name) = settings.link(mode) {
        // Loose, not off: the effective value is the maximum of `all` and the device, so 0 would not help where all is 1.
        desired.sysctls.insert(Sysctl::RpFilter(name.clone()), SysctlWant::Exactly(2));
        desired.links.insert(name, kind);
    }
}

/// Popped packets appear on `lo`, from sources that no route leads to through `lo`.
fn add_mpls(desired: &mut Desired, device: &str, settings: &Settings) {
    let label = settings.labels.pop();
    desired.sysctls.insert(Sysctl::RpFilter("lo".to_owned()), SysctlWant::Exactly(2));
    desired.sysctls.insert(Sysctl::MplsInput(device.to_owned()), SysctlWant::Exactly(1));
    desired.sysctls.insert(Sysctl::PlatformLabels, SysctlWant::AtLeast(label + 1));
    desired.labels.insert(label, LabelRoute::Pop { dev: "lo".to_owned() });
}

/// The pod must never claim a VIP on its LAN: another pod has it too.
fn keep_silent(desired: &mut Desired, observed: &Observed, settings: &Settings) {
    let devices: BTreeSet<&String> = observed
        .addresses
        .iter()
        .map(|(a, _, _)| &a.dev)
        .filter(|d| !d.starts_with(&settings.link_prefix) && observed.links.get(*d).is_some_and(|l| !l.loopback))
        .collect();
    for device in devices {
        desired.sysctls.insert(Sysctl::ArpIgnore(device.clone()), SysctlWant::Exactly(1));
        desired.sysctls.insert(Sysctl::ArpAnnounce(device.clone()), SysctlWant::Exactly(2));
    }
}

fn pod_table(input: &PodInput, modes: &BTreeSet<Mode>, mtu: u32, settings: &Settings) -> PodTable {
    let overhead = modes.iter().map(|m| m.overhead()).max().unwrap_or(0);
    PodTable {
        node: settings.node_name.clone(),
        vips: input.vips.keys().copied().collect(),
        nodes: input.nodes.clone(),
        pod: input.address,
        tunnels: Tunnels {
            gre: modes.contains(&Mode::Gre),
            vxlan: modes.contains(&Mode::Vxlan).then_some(settings.vxlan_port),
            mpls: modes.contains(&Mode::Mpls),
        },
        mss: mtu.saturating_sub(overhead + HEADERS),
        link_prefix: settings.link_prefix.clone(),
    }
}
