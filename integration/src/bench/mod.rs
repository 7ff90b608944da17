//! Measurements that can be repeated: `kst-lab bench`, which `hack/bench` runs on the right kernel.

pub mod api;
pub mod packet;
pub mod scale;

use anyhow::Result;
use clap::Subcommand;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// What forwarding one packet costs, in instructions; needs a clock that counts them (run hack/bench packet).
    Packet(packet::Args),
    /// What a change costs the API server: requests, events of watches, and bytes
    ///
    /// Real are the agents of all nodes, each of which is an ingress node and has pods; two controllers; the first ten endpoints,
    /// and those that are replaced or added, which are pods of the lab. Further endpoints are objects: Pods on ten more
    /// nodes that have no agents. The reports of these nodes are written as agents would write them, at the same occasions,
    /// and are not counted. The API server is the lab's double, which answers with JSON as a real one does. Counted are
    /// bodies, without what HTTP and TLS add. Leases and bookmarks come by the clock, and are no cost of a change.
    Api(api::Args),
    /// What many VIPs, pods and Services cost the agent and the controller, in time, memory and CPU.
    Scale(scale::Args),
}

/// Runs one measurement and prints its result.
///
/// # Errors
/// Whatever could not be measured, or is not what it claims to be.
pub async fn run(command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Packet(args) => packet::run(args).await,
        BenchCommand::Api(args) => api::run(args).await,
        BenchCommand::Scale(args) => scale::run(args).await,
    }
}
