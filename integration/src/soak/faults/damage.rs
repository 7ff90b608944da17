//! Somebody on an ingress node who deletes what is ours.

use anyhow::Result;

use crate::lab::nft;
use crate::netns::Netns;
use crate::soak::stage::{Stage, WORKERS};
use crate::world::{World, word_after};

const TABLE: &str = "inet kube_service_tunnel";

impl Stage {
    pub(in crate::soak) async fn nft_table_deleted(&mut self) -> Result<()> {
        self.damaged(|_| Ok(format!("nft delete table {TABLE}"))).await
    }

    /// Everybody's tables are gone, and the others' come back later.
    pub(in crate::soak) async fn nft_flushed(&mut self) -> Result<()> {
        let (ingress, _) = self.pick_ingress();
        let worker = WORKERS[self.rng.usize(..WORKERS.len())];
        let mut foreign = Vec::new();
        for node in [ingress, worker] {
            let netns = self.world.lab.node(node)?.netns().clone();
            let tables = World::run_in(&netns, "nft list tables")?;
            let others = tables.lines().filter(|line| !line.contains(TABLE));
            let saved = others.map(|table| World::run_in(&netns, &format!("nft -s list {table}")));
            foreign.push((netns.clone(), saved.collect::<Result<String>>()?));
            self.traffic.fault_now();
            World::run_in(&netns, "nft flush ruleset")?;
        }
        self.observe(self.pace.observe).await?;
        for (netns, tables) in foreign {
            nft::load_async(&netns, tables).await?;
        }
        Ok(())
    }

    pub(in crate::soak) async fn nft_rule_deleted(&mut self) -> Result<()> {
        self.damaged(|node| {
            let chain = World::run_in(node, &format!("nft -a list chain {TABLE} prerouting"))?;
            let handle = word_after(&chain, "VIP traffic", "handle")?;
            Ok(format!("nft delete rule {TABLE} prerouting handle {handle}"))
        })
        .await
    }

    pub(in crate::soak) async fn ip_rule_deleted(&mut self) -> Result<()> {
        self.damaged(|_| Ok("ip rule del priority 101".to_owned())).await
    }

    pub(in crate::soak) async fn nexthop_deleted(&mut self) -> Result<()> {
        self.damaged(|node| {
            let id = word_after(&World::run_in(node, "ip nexthop show protocol 107")?, "encap", "id")?;
            Ok(format!("ip nexthop del id {id}"))
        })
        .await
    }

    /// Does it, and waits until it has been made good.
    async fn damaged(&mut self, damage: impl Fn(&Netns) -> Result<String>) -> Result<()> {
        let (node, _) = self.pick_ingress();
        let netns = self.world.lab.node(node)?.netns();
        let damage = damage(netns)?;
        self.traffic.fault_now();
        World::run_in(netns, &damage)?;
        self.observe(self.pace.observe).await
    }
}
