//! Before anything is touched: does this node have what it takes, and does anything stand in the way?

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use tracing::info;

use crate::kernel::{self, Features};
use crate::model::Mode;
use crate::model::config::{Config, DEFAULT_HASH_SEED};
use crate::netns::Netns;
use crate::plan::Settings;
use crate::plan::conflict::conflicts;
use crate::state::{self, Selector};

/// The part of the configuration that kernel objects are made of.
///
/// It takes every mode for available; [`preflight`] knows better.
pub fn plan_settings(config: &Config) -> Settings {
    Settings {
        node_name: config.node_name.clone(),
        buckets: config.kernel.buckets,
        table_base: config.kernel.table_base,
        announce_table: config.kernel.announce_table,
        link_prefix: config.kernel.link_prefix.clone(),
        hash_seed: DEFAULT_HASH_SEED,
        mark: config.kernel.mark,
        rule_priority: config.kernel.rule_priority,
        labels: config.mpls,
        vxlan_port: config.vxlan_port,
        proc_root: config.kernel.proc_root.clone(),
        vip_ranges: config.vip_ranges.iter().map(|range| range.net).collect(),
        limits_udp: true,
        unavailable: BTreeMap::new(),
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
        vip_ranges: config.vip_ranges.clone(),
        node_name: config.node_name.clone(),
        buckets: u16::try_from(config.kernel.buckets.get())?,
    })
}

/// Refuses to start where the data path could not work.
///
/// # Errors
/// Everything that is missing or in the way, each with its remedy, in one error. A mode that only an annotation can ask for
/// may be missing: it is noted in the settings that are returned.
pub async fn preflight(netns: &Netns, config: &Config) -> anyhow::Result<Settings> {
    let (netns, mut settings) = (netns.clone(), plan_settings(config));
    let prefix = settings.link_prefix.clone();
    let observed =
        tokio::task::spawn_blocking(move || netns.run(|| kernel::observe(std::iter::empty(), prefix.as_str()))).await;
    let Features { mut missing, mut lacking, limits_udp } = tokio::task::spawn_blocking(kernel::features).await?;
    missing.extend(lacking.remove(&config.mode));
    if !missing.is_empty() {
        let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
        bail!("this node lacks what mode {} needs: {}", config.mode, list.join("; "));
    }
    settings.limits_udp = limits_udp;
    if !limits_udp {
        info!("this kernel remembers each client's port of wildcard UDP servers for as long as its own setting says");
    }
    let observed = observed???;
    let found = conflicts(&observed, &settings, &BTreeSet::from([config.mode]));
    if !found.is_empty() {
        let list: Vec<String> = found.iter().map(ToString::to_string).collect();
        bail!("{}", list.join("; "));
    }
    for mode in Mode::ALL.into_iter().filter(|mode| *mode != config.mode) {
        let mut why: Vec<String> =
            conflicts(&observed, &settings, &BTreeSet::from([mode])).iter().map(ToString::to_string).collect();
        why.extend(lacking.remove(&mode).map(|missing| missing.to_string()));
        if !why.is_empty() {
            info!(%mode, why = why.join("; "), "mode is not available on this node");
            settings.unavailable.insert(mode, format!("{}; then restart the agent", why.join("; ")));
        }
    }
    Ok(settings)
}
