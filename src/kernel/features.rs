//! What the agent needs from the machine, found out at start by doing it: a node that lacks something is told at once and
//! in one list, not by the first packet that goes nowhere.
//!
//! Every probe is real (no reading of version numbers or `/proc/config.gz`) and happens in a new namespace that vanishes
//! afterwards, the same for all of them. Modules that are lacking are loaded if the agent may do that; that is the only trace it leaves.
//! In a cluster it may not: [`load_modules`] does it before, in a container of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use crate::model::second_chance::{Name, TunnelId};
use crate::model::{Family, Mode};
use crate::netns::Netns;
use crate::plan::icmp::{quoted_element, quoted_map_type, source_from_vip};
use crate::plan::nft::UdpTimeout;
use crate::plan::{LabelRoute, LinkKind, NFT_TABLE, Nexthop, Plan, Step, Sysctl};

use super::{apply, nft};

/// The oldest `nft` that is known to work.
const NFT_VERSION: (u32, u32, u32) = (1, 0, 6);

/// Something that the machine lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Missing {
    /// What was tried, in the words of the documentation.
    pub what: &'static str,
    /// What was said, and the remedy if one is known.
    pub why: String,
}

/// What was found out about the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// What is lacking whatever the mode, empty if the agent can start.
    pub missing: Vec<Missing>,
    /// What else is lacking for a mode.
    pub lacking: BTreeMap<Mode, Missing>,
    /// Whether rules can limit how long connection tracking remembers, on which nothing depends.
    pub limits_udp: bool,
}

/// Tries everything that agents need. Takes some 100 ms.
pub fn features() -> Features {
    let mut found = Features { missing: nft_version().err().into_iter().collect(), ..Features::default() };
    let netns = match Netns::anonymous() {
        Ok(netns) => netns,
        Err(error) => {
            found.missing.push(Missing { what: "network namespaces", why: error.to_string() });
            return found;
        }
    };
    found.missing.extend(Probe::NEXTHOPS.run(&netns).err());
    found.lacking =
        Mode::ALL.into_iter().filter_map(|mode| Some((mode, Probe::of_mode(mode).run(&netns).err()?))).collect();
    probe_nft(&netns, &mut found);
    found
}

/// All in one transaction, for starting `nft` is what takes long; if it is refused, part by part.
fn probe_nft(netns: &Netns, found: &mut Features) {
    let mpls = !found.lacking.contains_key(&Mode::Mpls);
    if Probe::all_of_nft(mpls).attempt(netns).is_ok() {
        found.limits_udp = true;
        return;
    }
    found.limits_udp = Probe::NFT_AND_LIMITS.run(netns).is_ok();
    if !found.limits_udp {
        found.missing.extend(Probe::NFT.run(netns).err());
    }
    if mpls {
        found.lacking.extend(Probe::FRAMES.run(netns).err().map(|missing| (Mode::Mpls, missing)));
    }
}

fn nft_version() -> Result<(), Missing> {
    let what = "the nft program";
    let (major, minor, patch) = nft::version().map_err(|e| Missing { what, why: format!("{e} (install nftables)") })?;
    if (major, minor, patch) >= NFT_VERSION {
        return Ok(());
    }
    Err(Missing { what, why: format!("version {major}.{minor}.{patch} is too old: 1.0.6 or later is needed") })
}

/// One thing to try: steps that must succeed in a namespace that is empty but for what other probes have left.
struct Probe {
    what: &'static str,
    modules: &'static [&'static str],
    steps: fn() -> Vec<Step>,
}

/// The interface that every namespace has.
const LO: &str = "lo";
const GRE: &str = "kst-probe-gre";
const VXLAN: &str = "kst-probe-vxlan";
const SOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

impl Probe {
    const NEXTHOPS: Probe = Probe {
        what: "nexthop objects with encapsulation",
        modules: &["ip_tunnel"],
        steps: || {
            let id = TunnelId::former(Name::FIRST);
            let nexthop = Nexthop::EncapIp { family: Family::V4, dev: LO.to_owned(), src: SOME, dst: SOME, id };
            vec![Step::LinkUp(LO.to_owned()), Step::ReplaceNexthop(1, nexthop)]
        },
    };

    const NFT: Probe = Probe {
        what: "nf_tables with jhash, socket, fib, notrack and route chains",
        modules: &["nf_tables", "nft_ct", "nft_hash", "nft_socket", "nft_fib_inet", "nft_nat", "nft_reject_inet"],
        steps: || vec![Step::NftText(nft_probe())],
    };

    const NFT_AND_LIMITS: Probe = Probe { steps: || vec![Step::NftText(nft_probe() + &limits_probe())], ..Probe::NFT };

    const FRAMES: Probe = Probe {
        what: "mode mpls",
        modules: &["nft_meta_bridge"],
        steps: || vec![Step::NftText(FRAMES_PROBE.to_owned())],
    };

    fn all_of_nft(with_frames: bool) -> Probe {
        let steps = match with_frames {
            true => || vec![Step::NftText(nft_probe() + &limits_probe() + FRAMES_PROBE)],
            false => Probe::NFT_AND_LIMITS.steps,
        };
        Probe { steps, ..Probe::NFT }
    }

    fn of_mode(mode: Mode) -> Probe {
        match mode {
            Mode::Gre => Probe {
                what: "mode gre",
                modules: &["ip_gre"],
                steps: || vec![Step::AddLink(GRE.to_owned(), LinkKind::GreExternal(Family::V4))],
            },
            Mode::Vxlan => Probe {
                what: "mode vxlan",
                modules: &["vxlan"],
                steps: || vec![Step::AddLink(VXLAN.to_owned(), LinkKind::VxlanGpe { port: 4790 })],
            },
            Mode::Mpls => Probe { what: "mode mpls", modules: &["mpls_router", "mpls_iptunnel"], steps: mpls_steps },
        }
    }

    fn run(&self, netns: &Netns) -> Result<(), Missing> {
        match self.attempt(netns) {
            Ok(()) => Ok(()),
            Err(first) => {
                tracing::debug!(what = self.what, why = first.why, "feature missing, loading its modules");
                load(self.modules);
                self.attempt(netns)
            }
        }
    }

    fn attempt(&self, netns: &Netns) -> Result<(), Missing> {
        let failed = |why: String| Missing { what: self.what, why };
        let plan = Plan { steps: (self.steps)() };
        netns.run(|| apply(&plan)).map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        Ok(())
    }
}

fn mpls_steps() -> Vec<Step> {
    let nexthop = Nexthop::mpls(Family::V4, 100, IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), LO.to_owned());
    vec![
        Step::SetSysctl(Sysctl::PlatformLabels, 128),
        Step::SetSysctl(Sysctl::MplsInput(LO.to_owned()), 1),
        Step::LinkUp(LO.to_owned()),
        Step::ReplaceLabel(100, LabelRoute::Pop { dev: LO.to_owned() }),
        Step::ReplaceNexthop(2, nexthop),
    ]
}

/// What `mpls` needs below IP.
const FRAMES_PROBE: &str = "table netdev kube_service_tunnel {
    set node_macs { type ether_addr; size 16; flags dynamic; }
    chain from_lo { type filter hook ingress device \"lo\" priority 0;
        arp saddr ip 192.0.2.1 add @node_macs { ether saddr }
        meta protocol 0x8847 ether saddr != @node_macs counter drop
    }
}
table bridge kube_service_tunnel {
    chain forward { type filter hook forward priority -200;
        meta ibrname \"cni0\" ether type 0x8847 @nh,0,20 100 counter drop
    }
}
";

/// Every expression that our tables use, in as few rules as possible.
fn nft_probe() -> String {
    let (vip, of_quoted) = (quoted_element(SOME), quoted_map_type(Family::V4));
    let own_error = source_from_vip(Family::V4, "error_source");
    format!(
        "table inet kube_service_tunnel {{
    set vips {{ type ipv4_addr; counter; elements = {{ 192.0.2.1 }}; }}
    set refusing {{ type ipv4_addr . mark; }}
    set vips6 {{ type ipv6_addr; counter; elements = {{ 2001:db8::1 }}; }}
    map error_source {{ {of_quoted}; elements = {{ {vip} }}; }}
    map saved_rp_filter {{ type ifname : mark; elements = {{ \"lo\" : 1 }}; }}
    chain raw {{ type filter hook prerouting priority raw;
        ip daddr @vips notrack
        ip daddr @vips meta mark set jhash ip saddr . ip daddr . th sport . th dport mod 64 seed 0x1 offset 64
        iifname lo fib saddr type != local drop
        meta iifkind {{ \"veth\", \"bridge\" }} fib saddr . iif oif missing drop
        meta l4proto 17 socket wildcard 1 accept
        ct state invalid drop
    }}
    chain forward {{ type filter hook forward priority filter;
        tcp flags & (syn | ack) == syn ip daddr . meta mark @refusing counter reject with tcp reset
        ip daddr @vips reject
    }}
    chain nat {{ type nat hook prerouting priority dstnat; ip daddr @vips dnat ip to 192.0.2.2; }}
    chain out {{ type route hook output priority raw; {own_error}; }}
    chain post {{ type filter hook postrouting priority mangle; tcp flags syn tcp option maxseg size set 1300; }}
}}
"
    )
}

/// A time limit of connection tracking, in the table of [`nft_probe`].
fn limits_probe() -> String {
    let limit = UdpTimeout { family: Family::V4, seconds: 1 };
    let (of, name, policy) = (format!("inet {NFT_TABLE}"), limit.name(), limit.declaration());
    format!(
        "add ct timeout {of} {name} {{ {policy} }}\n\
         add rule {of} nat meta l4proto 17 ct timeout set \"{name}\" dnat ip to 192.0.2.2\n"
    )
}

/// What no probe needs: devices and filters that come later, and answers about sockets.
const LATER: [&str; 6] = ["ip6_gre", "sch_ingress", "cls_bpf", "tcp_diag", "udp_diag", "nfnetlink_cttimeout"];

/// Loads the modules that any mode can use, each for itself, and says of each why that failed.
pub fn load_modules() -> Vec<(&'static str, Result<(), String>)> {
    let probes = [Probe::NEXTHOPS, Probe::NFT, Probe::FRAMES].into_iter().chain(Mode::ALL.map(Probe::of_mode));
    let modules = probes.flat_map(|probe| probe.modules).copied().chain(LATER);
    modules.map(|module| (module, load_one(module))).collect()
}

fn load_one(module: &str) -> Result<(), String> {
    let output = Command::new("modprobe").arg(module).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("modprobe cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Best effort: in a container without the host's `/lib/modules` it cannot work, and the second attempt says what lacks.
fn load(modules: &[&str]) {
    let mut command = Command::new("modprobe");
    command.arg("-a").args(modules).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(error) = command.status() {
        tracing::debug!(%error, "modprobe cannot be run");
    }
}
