//! Removing everything of ours from this node and its pods, from whatever state it is in, without Kubernetes.
//!
//! Namespaces are found through `/proc` and `/run/netns`; each is looked at on its own, and what fails in one is reported at the
//! end without stopping the others.

use tracing::{error, info};

use crate::kernel;
use crate::model::config::CleanupConfig;
use crate::netns::{Netns, all_netns};
use crate::plan::nft::node::{owner, owner_name};
use crate::reconcile::clear;

/// What a clean-up did.
#[derive(Debug, Default)]
pub struct Summary {
    /// Namespaces in which something was removed.
    pub cleaned: usize,
    /// Steps in all of them.
    pub steps: usize,
    /// Everything that went wrong.
    pub errors: Vec<String>,
}

/// Cleans the node's own namespace and those of its pods. With a node name, a namespace whose table says that another node's
/// agent made it is left alone.
pub fn cleanup(config: &CleanupConfig) -> Summary {
    let mut summary = Summary::default();
    let own = match Netns::current() {
        Ok(own) => own,
        Err(error) => {
            summary.errors.push(error.to_string());
            return summary;
        }
    };
    let own_id = own.id();
    clean(&own, "node", config, &mut summary);
    for netns in all_netns(&config.kernel.proc_root).into_iter().filter(|n| n.id() != own_id) {
        let name = netns.path().display().to_string();
        clean(&netns, &name, config, &mut summary);
    }
    for error in &summary.errors {
        error!(error, "clean-up incomplete");
    }
    info!(cleaned = summary.cleaned, steps = summary.steps, errors = summary.errors.len(), "clean-up done");
    summary
}

fn clean(netns: &Netns, name: &str, config: &CleanupConfig, summary: &mut Summary) {
    match belongs_to_other(netns, config) {
        Ok(true) => return,
        Ok(false) => {}
        Err(error) => return summary.errors.push(format!("{name}: {error}")),
    }
    match clear(netns, config.kernel.link_prefix.as_str(), config.dry_run) {
        Ok(outcome) if outcome.plan.is_empty() => {}
        Ok(outcome) => {
            summary.cleaned += 1;
            summary.steps += outcome.plan.steps.len();
            if config.dry_run {
                print!("# {name}\n{}", outcome.plan);
            } else {
                info!(netns = name, steps = outcome.plan.steps.len(), "cleaned");
            }
        }
        Err(error) => summary.errors.push(format!("{name}: {error}")),
    }
}

fn belongs_to_other(netns: &Netns, config: &CleanupConfig) -> anyhow::Result<bool> {
    let Some(node) = &config.node_name else { return Ok(false) };
    let table = netns.run(kernel::our_table)??;
    Ok(table.as_ref().and_then(owner).is_some_and(|owner| owner != owner_name(node)))
}
