//! What there is to measure on the node: a way of forwarding, for one address family.

use std::fmt;

use tunnel_router::model::{Family, Mode};

/// How the packets are taken to the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A route to one endpoint: what forwarding costs without any of this.
    Plain,
    /// IPVS with tunnels (kube-router's direct server return): a firewall mark, scheduler `mh`.
    Ipvs,
    /// kube-proxy's nftables mode: destination and source are translated.
    KubeProxy,
    /// tunnel-router.
    Ours {
        /// Encapsulation.
        mode: Mode,
        /// Buckets.
        buckets: u32,
        /// The device to the endpoints has no address, so the node has the rule and table that tell reverse path filtering
        /// where VIPs are sources.
        sources: bool,
        /// Every bucket drains: the packets carry the name of its former owner.
        draining: bool,
    },
}

/// A way and what is forwarded by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarding {
    /// How.
    pub way: Way,
    /// Of what.
    pub family: Family,
}

impl Forwarding {
    fn new(way: Way, family: Family) -> Self {
        Forwarding { way, family }
    }

    /// Plain forwarding of the same family: the floor.
    pub fn plain(self) -> Self {
        Forwarding::new(Way::Plain, self.family)
    }

    /// IPVS of the same family: the peer that does the same job.
    pub fn ipvs(self) -> Self {
        Forwarding::new(Way::Ipvs, self.family)
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peer, ours) = match self.family {
            Family::V4 => ("", "v4"),
            Family::V6 => ("-v6", "v6"),
        };
        match self.way {
            Way::Plain => write!(f, "plain{peer}"),
            Way::Ipvs => write!(f, "ipvs-tun-mh{peer}"),
            Way::KubeProxy => write!(f, "kube-proxy-nft{peer}"),
            Way::Ours { mode, buckets, sources, draining } => {
                write!(f, "{mode}-{ours}-{buckets}")?;
                f.write_str(if sources { "-sources" } else { "" })?;
                f.write_str(if draining { "-draining" } else { "" })
            }
        }
    }
}

/// Every case, those that others are compared with first.
pub fn all() -> impl Iterator<Item = Forwarding> {
    let ways = || {
        let modes = Mode::ALL.into_iter();
        let of_mode = |mode| [16, 64, 128].map(|buckets| Way::Ours { mode, buckets, sources: false, draining: false });
        let ours = modes.flat_map(of_mode);
        [Way::Plain, Way::Ipvs, Way::KubeProxy].into_iter().chain(ours)
    };
    let gre = |sources, draining| Way::Ours { mode: Mode::Gre, buckets: 64, sources, draining };
    let v4 = ways().chain([gre(true, false), gre(false, true)]).map(|way| Forwarding::new(way, Family::V4));
    v4.chain(ways().map(|way| Forwarding::new(way, Family::V6)))
}
