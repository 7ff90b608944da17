//! What is asked of the kernel before goals are given to pods, outside of the agent's loop: the ways to other nodes, and the program
//! with its tables.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::event::{Prepare, Prepared};
use super::second_chance::SecondChances;
use crate::kernel::{self, KernelError};
use crate::model::Cluster;
use crate::model::config::KernelObjects;
use crate::netns::Netns;

/// Asks this node's kernel. Everything here blocks.
#[derive(Clone)]
pub(super) struct Preparer {
    pub(super) netns: Netns,
    pub(super) node: String,
    pub(super) kernel: KernelObjects,
    pub(super) second_chances: Arc<Mutex<SecondChances>>,
}

impl Preparer {
    /// The program of this node, with whoever needs it after the other.
    pub(super) fn second_chances(&self) -> MutexGuard<'_, SecondChances> {
        // It is as it was before the call that panicked, or as the kernel has it.
        self.second_chances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prepares the tables first: what the pods let in afterwards, they can judge.
    pub(super) fn prepare(&self, wanted: &Prepare) -> Prepared {
        let mut second_chances = self.second_chances();
        let failed = second_chances.serve(wanted, &self.node, &self.kernel).err().map(|error| error.to_string());
        let program = second_chances.program();
        drop(second_chances);
        Prepared { underlay: underlay(&self.netns, &wanted.here), program, failed }
    }
}

/// The MTU of the ways from this node to the others, by address; what cannot be asked for is left out.
pub fn underlay(netns: &Netns, cluster: &Cluster) -> BTreeMap<IpAddr, u32> {
    let nodes: Vec<IpAddr> = cluster.nodes.values().flat_map(|n| n.tunnel_addresses().iter()).collect();
    let facts = netns.run(|| kernel::routes_to(&nodes)).map_err(KernelError::from).and_then(|facts| facts);
    match facts {
        Ok(facts) => nodes.into_iter().zip(facts).filter_map(|(node, fact)| Some((node, fact.ok()?.mtu))).collect(),
        Err(error) => {
            warn!(%error, "cannot look up the ways to the other nodes, their MTU is not taken into account");
            BTreeMap::new()
        }
    }
}
