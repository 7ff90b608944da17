//! With whom this node speaks BGP, kept for some seconds.
//!
//! The kernel goes through the table of all TCP connections of the machine for each answer. The rounds of one change come in bursts, and
//! sessions last for days. A VIP that was not asked for before is judged by a new look.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::kernel::KernelError;

/// For how long an answer is right enough.
const KEPT: Duration = Duration::from_secs(5);

/// What was last seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Peers {
    seen: Option<Seen>,
}

#[derive(Debug, Clone)]
struct Seen {
    at: Instant,
    vips: BTreeSet<IpAddr>,
    peers: BTreeSet<IpAddr>,
}

impl Peers {
    /// The peers, for a judgement of these VIPs; none if the look fails.
    pub(super) fn for_vips(
        &mut self,
        vips: BTreeSet<IpAddr>,
        now: Instant,
        look: impl FnOnce() -> Result<BTreeSet<IpAddr>, KernelError>,
    ) -> BTreeSet<IpAddr> {
        let fresh = |seen: &&Seen| now.duration_since(seen.at) < KEPT && vips.is_subset(&seen.vips);
        if let Some(seen) = self.seen.as_ref().filter(fresh) {
            return seen.peers.clone();
        }
        let found = look().inspect_err(|error| debug!(%error, "cannot look for BGP sessions"));
        self.seen = found.ok().map(|peers| Seen { at: now, vips, peers });
        self.seen.iter().flat_map(|seen| seen.peers.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn peers_are_looked_for_again_after_a_while_and_for_a_new_vip() {
        let (mut peers, start) = (Peers::default(), Instant::now());
        let mut looks = 0;
        let mut look = |vips: &[&str], seconds| {
            peers.for_vips(addresses(vips), start + Duration::from_secs(seconds), || {
                looks += 1;
                Ok(addresses(&[&format!("10.0.0.{looks}")]))
            })
        };
        assert_eq!(look(&["192.0.2.10", "192.0.2.11"], 0), addresses(&["10.0.0.1"]));
        assert_eq!(look(&["192.0.2.10"], 4), addresses(&["10.0.0.1"]));
        assert_eq!(look(&["192.0.2.10", "192.0.2.12"], 4), addresses(&["10.0.0.2"]));
        assert_eq!(look(&["192.0.2.10"], 8), addresses(&["10.0.0.2"]));
        assert_eq!(look(&["192.0.2.10"], 9), addresses(&["10.0.0.3"]));
    }

    #[test]
    fn a_failed_look_is_repeated() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        let failed = || Err(KernelError::Malformed("no answer".to_owned()));
        assert_eq!(peers.for_vips(addresses(&["192.0.2.10"]), now, failed), addresses(&[]));
        let found = || Ok(addresses(&["10.0.0.1"]));
        assert_eq!(peers.for_vips(addresses(&["192.0.2.10"]), now, found), addresses(&["10.0.0.1"]));
    }
}
