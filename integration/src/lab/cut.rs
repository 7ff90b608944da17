//! Power loss: a node's links go dead without a goodbye.
//!
//! Everything is dropped at the router's end of the node's one link, in both directions and before the bridge: IP, ARP, labels.
//! Nobody sees a carrier go, the node's own kernel is not touched, and processes there run on; kill those that the power
//! loss would have taken.

use anyhow::Result;

use super::{Lab, nft, node};

impl Lab {
    /// Cuts the node off from router, nodes and API server.
    pub async fn cut(&self, node: &str) -> Result<()> {
        let (table, port) = (table(node), node::port(self.node(node)?.name()));
        let chain = |hook: &str| {
            format!(
                "add chain {table} {hook} {{ type filter hook {hook} device \"{port}\" priority -500; policy drop; }}\n"
            )
        };
        let rules = format!("create table {table}\n{}{}", chain("ingress"), chain("egress"));
        nft::load_async(self.router(), rules).await
    }

    /// Brings the links of a node back that was cut off.
    pub async fn heal(&self, node: &str) -> Result<()> {
        nft::load_async(self.router(), format!("delete table {}\n", table(node))).await
    }
}

fn table(node: &str) -> String {
    format!("netdev cut-{node}")
}
