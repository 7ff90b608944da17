//! What there is to measure: a way of forwarding, for one address family.

use std::fmt;
use std::str::FromStr;

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

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// How.
    pub way: Way,
    /// Of what.
    pub family: Family,
}

impl Case {
    fn new(way: Way, family: Family) -> Self {
        Case { way, family }
    }

    /// Plain forwarding of the same family: the floor.
    pub fn plain(self) -> Self {
        Case::new(Way::Plain, self.family)
    }

    /// IPVS of the same family: the peer that does the same job.
    pub fn ipvs(self) -> Self {
        Case::new(Way::Ipvs, self.family)
    }
}

impl fmt::Display for Case {
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

impl FromStr for Case {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || all().map(|case| case.to_string()).collect::<Vec<_>>().join(" ");
        all().find(|case| case.to_string() == name).ok_or_else(|| format!("there are only: {}", names()))
    }
}

/// Every case, those that others are compared with first.
pub fn all() -> impl Iterator<Item = Case> {
    let ways = || {
        let modes = Mode::ALL.into_iter();
        let of_mode = |mode| [16, 64, 128].map(|buckets| Way::Ours { mode, buckets, sources: false, draining: false });
        let ours = modes.flat_map(of_mode);
        [Way::Plain, Way::Ipvs, Way::KubeProxy].into_iter().chain(ours)
    };
    let gre = |sources, draining| Way::Ours { mode: Mode::Gre, buckets: 64, sources, draining };
    let v4 = ways().chain([gre(true, false), gre(false, true)]).map(|way| Case::new(way, Family::V4));
    v4.chain(ways().map(|way| Case::new(way, Family::V6)))
}

/// The cases asked for and those that they are compared with, in the order of [`all`]; everything if none is asked for.
pub fn selection(asked: &[Case]) -> Vec<Case> {
    let needed = |case: &Case| asked.iter().any(|a| [*a, a.plain(), a.ipvs()].contains(case));
    all().filter(|case| asked.is_empty() || needed(case)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(cases: &[Case]) -> Vec<String> {
        cases.iter().map(Case::to_string).collect()
    }

    #[test]
    fn every_case_is_found_by_its_name() {
        for case in all() {
            assert_eq!(case.to_string().parse(), Ok(case));
        }
        assert_eq!(all().count(), 26);
        assert!("gre-v4-32".parse::<Case>().unwrap_err().contains(" gre-v4-64-sources "));
    }

    #[test]
    fn what_a_case_is_compared_with_is_measured_too_and_first() {
        let asked = [Case::from_str("mpls-v6-64").unwrap()];
        assert_eq!(names(&selection(&asked)), ["plain-v6", "ipvs-tun-mh-v6", "mpls-v6-64"]);
        assert_eq!(selection(&[]).len(), all().count());
    }
}
