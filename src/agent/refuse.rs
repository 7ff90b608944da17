//! Refusing to clean up while agents run, or come again: they would make everything anew.

use anyhow::{Context, bail};

use crate::inspect::ask::running_agent;
use crate::kube::{client, daemon_set_exists};
use crate::model::config::DaemonSetName;

/// Fails while the DaemonSet exists, and while an agent runs on this node: its pods outlive it by some seconds.
///
/// # Errors
/// What is in the way and what to do; also an API server that does not say whether there is such a DaemonSet.
pub async fn refuse(agents: &DaemonSetName) -> anyhow::Result<()> {
    let client = client(None).await.context("cannot talk to Kubernetes")?;
    let DaemonSetName { namespace, name } = agents;
    let exists = daemon_set_exists(client, agents).await;
    if exists.with_context(|| format!("cannot ask whether DaemonSet {namespace}/{name} exists"))? {
        bail!(
            "DaemonSet {namespace}/{name} exists, and its agents would make everything anew: delete it first \
             (kubectl -n {namespace} delete daemonset {name})"
        );
    }
    if let Some(process) = running_agent() {
        bail!("an agent runs on this node ({process}): it must end first");
    }
    Ok(())
}
