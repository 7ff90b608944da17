//! What can go wrong, by name.

use std::fmt;

use anyhow::Result;
use clap::ValueEnum;

use super::stage::Stage;

/// A form of the run, by the faults that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One fault of each kind
    Short,
    /// All that must pass
    ShortAll,
    /// All
    Long,
}

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
    /// all pods of a Service are not ready at once, for a while
    AllUnready,
    /// 10 of 12 pods become not ready one after the other within 10 s, and ready again
    UnreadyInTurn,
    /// the same with 50 of 60 pods
    ManyUnreadyInTurn,
    /// half of a Service's pods get another label, and their own again
    PodsRelabelled,
    /// a Service selects another release's pods, all at once (blue and green)
    SelectorChanged,
    /// the agents of half of the nodes are stopped while pods come and go
    HalfOfAgentsStopped,
    /// the Node objects of an ingress node and of a worker are deleted, and registered again
    NodeObjectDeleted,
    /// somebody flushes all of nft on an ingress node and on a worker
    NftFlushed,
    /// a host firewall like firewalld is loaded on an ingress node and a worker, and reloaded
    FirewallReloaded,
    /// a kube-proxy rewrites its rules ten times a second on an ingress node and a worker
    RulesRewritten,
    /// an ingress node is cordoned, and the only other one loses its power
    CordonedAndLost,
    /// somebody deletes all ConfigMaps of our namespace
    MapsDeleted,
    /// somebody restores all ConfigMaps of our namespace from a backup
    BackupRestored,
    /// a node with pods and a controller loses its power, and comes back
    ServingLost,
    /// a node that is an ingress node and has pods loses its power, and comes back
    IngressAndServingLost,
    /// agents hear of everything up to 5 s late, each at another time, while pods are replaced and routers re-hash
    NewsLate,
    /// a pod crashes, and is replaced
    PodCrashed,
    /// a pod's sandbox is lost and made again, with another address
    SandboxRecreated,
    /// a Service is scaled from 4 pods to 8, and the new ones answer with SYN cookies
    ScaleUpWithCookies,
    /// the MTU between all nodes falls from 1500 to 1400, and rises again
    MtuLowered,
    /// a controller whose clock is an hour ahead has stored a map in the middle of a scale-up
    MapFromTheFuture,
    /// the leading controller's clock is an hour ahead while a Service is scaled; its successor's clock is right
    ControllerClockAhead,
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

    /// All faults of a form.
    pub(super) fn of(form: Form) -> Vec<Fault> {
        Fault::value_variants().iter().copied().filter(|fault| fault.is_in(form)).collect()
    }

    /// The short form has one of each kind.
    fn is_in(self, form: Form) -> bool {
        let lasts_long = matches!(self, Fault::UnreadyInTurn | Fault::ManyUnreadyInTurn);
        let stood_for = matches!(
            self,
            Fault::PodsRelabelled | Fault::NftFlushed | Fault::IngressAndServingLost | Fault::ControllerClockAhead
        );
        match form {
            Form::Short => !(lasts_long || stood_for),
            Form::ShortAll | Form::Long => true,
        }
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
            Fault::AllUnready => stage.all_unready().await,
            Fault::UnreadyInTurn => stage.some_unready_in_turn().await,
            Fault::ManyUnreadyInTurn => stage.many_unready_in_turn().await,
            Fault::PodsRelabelled => stage.pods_relabelled().await,
            Fault::SelectorChanged => stage.selector_changed().await,
            Fault::HalfOfAgentsStopped => stage.half_of_agents_stopped().await,
            Fault::NodeObjectDeleted => stage.node_object_deleted().await,
            Fault::NftFlushed => stage.nft_flushed().await,
            Fault::FirewallReloaded => stage.firewall_reloaded().await,
            Fault::RulesRewritten => stage.rules_rewritten().await,
            Fault::CordonedAndLost => stage.cordoned_and_lost().await,
            Fault::MapsDeleted => stage.maps_deleted().await,
            Fault::BackupRestored => stage.backup_restored().await,
            Fault::ServingLost => stage.serving_lost().await,
            Fault::IngressAndServingLost => stage.ingress_and_serving_lost().await,
            Fault::NewsLate => stage.news_late().await,
            Fault::PodCrashed => stage.pod_crashed().await,
            Fault::SandboxRecreated => stage.sandbox_recreated().await,
            Fault::ScaleUpWithCookies => stage.scale_up_with_cookies().await,
            Fault::MtuLowered => stage.mtu_lowered().await,
            Fault::MapFromTheFuture => stage.map_from_the_future().await,
            Fault::ControllerClockAhead => stage.controller_clock_ahead().await,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_has_ever_broken_a_connection_is_in_the_short_form() {
        let short = Fault::of(Form::Short);
        assert!([Fault::HalfOfAgentsStopped, Fault::NewsLate].iter().all(|fault| short.contains(fault)));
        let all = Fault::value_variants().len();
        assert_eq!([Form::ShortAll, Form::Long].map(|form| Fault::of(form).len()), [all; 2]);
    }
}
