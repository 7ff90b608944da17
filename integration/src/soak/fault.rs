//! What can go wrong, by name.

use std::fmt;

use anyhow::Result;
use clap::ValueEnum;

use super::stage::Stage;

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// an ingress node loses its power: no goodbye, and nothing of it is left when it is back
    IngressLost,
    /// one more ingress node
    IngressAdded,
    /// an ingress node is drained and taken back
    IngressDrained,
    /// SIGKILL to the agents of an ingress node and of a worker
    AgentKilled,
    /// another binary with another number of buckets, node by node
    AgentUpgraded,
    /// the API server is gone for a while
    ApiDown,
    /// the API server is slow, refuses every third request, and its watches break and expire (410)
    ApiLossy,
    /// BIRD on an ingress node is killed
    BirdKilled,
    /// the router spreads flows over the ingress nodes in another way
    EcmpRehashed,
    /// a Service is scaled from 4 pods to 8
    ScaleUp,
    /// a Service is scaled from 8 pods to 4, which end gracefully
    ScaleDown,
    /// every pod is replaced by a new one, one after the other
    RollingReplacement,
    /// two Services' endpoints change, ten times a second
    Churn,
    /// half of the pods are ready, not ready, ready, …
    ReadinessFlapping,
    /// an ingress node loses its power in the middle of a drain
    IngressLostInDrain,
    /// an ingress node loses its power in the middle of a scale-up
    IngressLostInScaleUp,
    /// both controllers are killed, the leader in the middle of a write, and endpoints change while they are gone
    ControllerKilled,
    /// somebody restores an old bucket map
    StaleMap,
    /// somebody deletes our nft table on an ingress node
    NftTableDeleted,
    /// somebody deletes the nft rule that hashes
    NftRuleDeleted,
    /// somebody deletes one of our ip rules
    IpRuleDeleted,
    /// somebody deletes a nexthop, and with it the routes that lead there
    NexthopDeleted,
}

impl Fault {
    /// What it is called on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What it is, in words.
    pub fn help(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    /// Does it, watches for a while, and makes it good. How all is well again is waited for afterwards.
    pub(super) async fn inject(self, stage: &mut Stage) -> Result<()> {
        match self {
            Fault::IngressLost => stage.ingress_lost().await,
            Fault::IngressAdded => stage.ingress_added().await,
            Fault::IngressDrained => stage.ingress_drained().await,
            Fault::AgentKilled => stage.agent_killed().await,
            Fault::AgentUpgraded => stage.agent_upgraded().await,
            Fault::ApiDown => stage.api_down().await,
            Fault::ApiLossy => stage.api_lossy().await,
            Fault::BirdKilled => stage.bird_killed().await,
            Fault::EcmpRehashed => stage.ecmp_rehashed().await,
            Fault::ScaleUp => stage.scale_up().await,
            Fault::ScaleDown => stage.scale_down().await,
            Fault::RollingReplacement => stage.rolling_replacement().await,
            Fault::Churn => stage.churn().await,
            Fault::ReadinessFlapping => stage.readiness_flapping().await,
            Fault::IngressLostInDrain => stage.ingress_lost_in_drain().await,
            Fault::IngressLostInScaleUp => stage.ingress_lost_in_scale_up().await,
            Fault::ControllerKilled => stage.controller_killed().await,
            Fault::StaleMap => stage.stale_map().await,
            Fault::NftTableDeleted => stage.nft_table_deleted().await,
            Fault::NftRuleDeleted => stage.nft_rule_deleted().await,
            Fault::IpRuleDeleted => stage.ip_rule_deleted().await,
            Fault::NexthopDeleted => stage.nexthop_deleted().await,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}
