//! `tunnel-router drain-node`: routers are to send this node no more packets.
//!
//! The wish is kept in the kernel, as an empty nft table, so that it outlives the agent; and it works without one. What undoes it is
//! said in the answer.

use tracing::info;

use crate::kernel;
use crate::model::config::DrainNodeConfig;
use crate::plan::{Plan, Step, set_withdrawn};

/// Withdraws what this node announces, and keeps the agent from announcing it again; or lets it.
///
/// # Errors
/// What the kernel refused.
pub fn drain_node(config: &DrainNodeConfig) -> anyhow::Result<()> {
    let mut plan = Plan { steps: vec![set_withdrawn(!config.undo)] };
    if config.undo {
        kernel::apply(&plan)?;
        info!("the agent may announce VIPs again");
        return Ok(());
    }
    // No device of ours matters here.
    let announced = kernel::observe(std::iter::empty(), "kst-")?.announcements();
    plan.steps.extend(announced.iter().copied().map(Step::DelRoute));
    kernel::apply(&plan)?;
    for route in &announced {
        info!(vip = %route.vip, table = route.table, "withdrawn");
    }
    info!(
        vips = announced.len(),
        "this node announces nothing until drain-node --undo, a reboot or `nft flush ruleset`; `kubectl cordon` outlives those"
    );
    Ok(())
}
