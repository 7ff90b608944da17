//! Before anything is touched: does this node have what it takes, and does anything stand in the way?

use std::collections::BTreeSet;

use anyhow::{Context, bail};

use crate::kernel;
use crate::model::config::Config;
use crate::netns::Netns;
use crate::plan::Settings;
use crate::plan::conflict::conflicts;
use crate::state::{self, Selector};

/// The part of the configuration that kernel objects are made of.
pub fn plan_settings(config: &Config) -> Settings {
    Settings {
        node_name: config.node_name.clone(),
        buckets: config.kernel.buckets,
        table_base: config.kernel.table_base,
        link_prefix: config.kernel.link_prefix.to_string(),
        hash_seed: config.hash_seed,
        mark: config.kernel.mark,
        rule_priority: config.kernel.rule_priority,
        labels: config.mpls,
        vxlan_port: config.vxlan_port,
    }
}

/// The part of the configuration that resolving the cluster needs.
///
/// # Errors
/// `--ingress-nodes` is no label selector.
pub fn state_settings(config: &Config) -> anyhow::Result<state::Settings> {
    let ingress_nodes: Option<Selector> =
        config.ingress_nodes.as_deref().map(str::parse).transpose().context("--ingress-nodes")?;
    Ok(state::Settings {
        annotation: config.annotation.to_string(),
        default_mode: config.mode,
        ingress_nodes,
        vip_cidrs: config.vip_cidrs.clone(),
        node_name: config.node_name.clone(),
        buckets: u16::try_from(config.kernel.buckets.get())?,
    })
}

/// Refuses to start where the data path could not work.
///
/// # Errors
/// Everything that is missing or in the way, each with its remedy, in one error.
pub async fn preflight(netns: &Netns, config: &Config, settings: &Settings) -> anyhow::Result<()> {
    let mode = config.mode;
    let missing = tokio::task::spawn_blocking(move || kernel::missing([mode])).await?;
    if !missing.is_empty() {
        let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
        bail!("this node lacks what mode {mode} needs: {}", list.join("; "));
    }
    let (netns, settings) = (netns.clone(), settings.clone());
    let prefix = settings.link_prefix.clone();
    let observed =
        tokio::task::spawn_blocking(move || netns.run(|| kernel::observe(std::iter::empty(), &prefix))).await???;
    // Every mode can be asked for by an annotation, but only the default one is sure to be used.
    let found = conflicts(&observed, &settings, &BTreeSet::from([mode]));
    if found.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    bail!("{}", list.join("; "))
}
