//! Measurements of the data path that can be repeated: `kst-lab bench`, which `hack/bench` runs on the right kernel.

pub mod packet;

use anyhow::Result;
use clap::Subcommand;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// What forwarding one packet costs, in instructions; needs a clock that counts them (run hack/bench packet).
    Packet(packet::Args),
}

/// Runs one measurement and prints its result.
///
/// # Errors
/// Whatever could not be measured, or is not what it claims to be.
pub async fn run(command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Packet(args) => packet::run(args).await,
    }
}
