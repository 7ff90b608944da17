//! `--dry-run`: what the agent would do on this node now, as `ip`, `sysctl` and `nft` commands.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::follows::{Follows, moment};
use super::goals::pod_goals;
use super::prepare::underlay;
use super::run::scope;
use super::start::{plan_settings, state_settings};
use crate::kernel;
use crate::kernel::bpf::own_version;
use crate::kube::{client, watch};
use crate::model::config::Config;
use crate::netns::{Netns, ProcFinder};
use crate::plan::Settings;
use crate::reconcile::{Execution, Goal, Memory, reconcile};
use crate::state::{Index, Resolved};

/// Waits until every kind was listed, prints the plan of every namespace and touches nothing.
///
/// # Errors
/// A kubeconfig that cannot be used. What cannot be planned for one namespace is printed as a comment.
pub async fn dry_run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = client(config.kubeconfig.as_deref()).await?;
    let mut index = Index::new(config.annotation.as_str());
    let mut changes = watch(client, scope(&config), shutdown.clone());
    let settings = state_settings(&config)?;
    let mut resolved = loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(change) = changes.recv() => index.apply(change),
        };
        if let Some(resolved) = index.resolve(&settings) {
            break resolved;
        }
    };
    Follows::default().follow(&mut resolved.cluster, moment());
    tokio::task::spawn_blocking(move || print(&config, &resolved)).await?
}

fn print(config: &Config, resolved: &Resolved) -> anyhow::Result<()> {
    let settings = plan_settings(config);
    for problem in &resolved.cluster.problems {
        println!("# {} {}: {}", problem.reason.as_str(), problem.subject, problem.note);
    }
    let show = |title: &str, netns: &Netns, goal: &Goal| match reconcile(
        netns,
        goal,
        &settings,
        &mut Memory::default(),
        Execution::DryRun,
    ) {
        Ok(outcome) if outcome.plan.is_empty() => println!("# {title}: nothing to do"),
        Ok(outcome) => print!("# {title}: {} steps\n{}", outcome.plan.steps.len(), outcome.plan),
        Err(error) => println!("# {title}: {error}"),
    };
    show(&format!("node {}", config.node_name), &Netns::current()?, &Goal::Node(Arc::new(resolved.cluster.clone())));
    let underlay = underlay(&Netns::current()?, &resolved.cluster);
    let finder = ProcFinder::new(config.kernel.proc_root.clone());
    let processes = finder.scan()?;
    for pod in pod_goals(&resolved.cluster, &resolved.local_pods, &settings).into_values() {
        let title = format!("pod {} ({})", pod.name, pod.input.addresses);
        match finder.find_among(&processes, &pod.query) {
            Ok(netns) => {
                // What is attached stays; else the plan says how to attach it.
                let program = attached(&netns, &settings).or(Some(0));
                show(&title, &netns, &Goal::Pod(pod.prepared(&resolved.cluster, &underlay, program).input));
            }
            Err(error) => println!("# {title}: {error}"),
        }
    }
    Ok(())
}

/// The program of our version that is attached in a pod.
pub fn attached(netns: &Netns, settings: &Settings) -> Option<u32> {
    let filters = netns.run(|| kernel::filters(settings.link_prefix.as_str())).ok()?.ok()?;
    let mut ours = filters.into_values().filter(|filter| filter.version == Some(own_version()));
    ours.next().map(|filter| filter.program)
}
