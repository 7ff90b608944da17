//! A network whose packets become smaller.

use anyhow::Result;

use crate::soak::stage::Stage;
use crate::world::World;

/// The MTUs between the nodes, after the fault and in the end. IPv6 in a tunnel takes more than half of 1500 (RFC 8200: 1280).
const LOWERED: u32 = 1400;
const USUAL: u32 = 1500;

impl Stage {
    /// As when the network is moved into a tunnel.
    pub(in crate::soak) async fn mtu_lowered(&mut self) -> Result<()> {
        for mtu in [LOWERED, USUAL] {
            self.traffic.fault_now();
            self.set_fabric_mtu(mtu)?;
            self.observe(self.pace.observe).await?;
        }
        Ok(())
    }

    /// On both ends of every link: a bridge drops in silence what a port cannot take.
    fn set_fabric_mtu(&self, mtu: u32) -> Result<()> {
        let lab = &self.world.lab;
        for node in lab.nodes() {
            World::run_in(node.netns(), &format!("ip link set eth0 mtu {mtu}"))?;
            World::run_in(lab.router(), &format!("ip link set p-{} mtu {mtu}", node.name()))?;
        }
        World::run_in(lab.api(), &format!("ip link set eth0 mtu {mtu}"))?;
        ["p-api", "fabric"]
            .iter()
            .try_for_each(|device| World::run_in(lab.router(), &format!("ip link set {device} mtu {mtu}")).map(drop))
    }
}
