//! Lists that stay up to date: Services, EndpointSlices, ServiceCIDRs, Nodes, bucket maps; for agents the Pods of the own node, for
//! controllers the reports of nodes.
//!
//! `kube::runtime::watcher` would be the obvious way, and is not taken: when the server refuses to *start* a watch with
//! HTTP 410, it asks for the same version again for ever (kube-rs/kube#1042; the code of 5.0 still does); a list that
//! never answers is never given up; and it says nothing when a quiet watch stands again, so the end of an outage could
//! not be logged. What is needed of it is the loop in [`follow`], over the same `Api::list` and `Api::watch`.
//!
//! One kind failing does not disturb the others, one object that cannot be decoded does not disturb its kind, and
//! nothing is ever taken back because the API is away.

mod follow;
mod pace;
mod service_cidrs;
mod unreadable;

use ::kube::core::DeserializeGuard;
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::state::Change;
use crate::state::assignment::MAP_LABEL;
use crate::state::node_report::REPORT_LABEL;
use follow::Follower;
pub(super) use pace::Pace;

/// Changes that may wait. When the agent is busy for longer than that, the watches wait, and the API's buffer after
/// them.
const WAITING: usize = 1024;

/// Watches everything that [`state`](crate::state) needs, until the token is cancelled or the receiver is dropped. The
/// receiver ends otherwise only if a watch panicked: what is known would silently grow old, so the agent should end,
/// too. Must be called within a tokio runtime.
pub fn watch(client: Client, scope: Scope<'_>, cancel: CancellationToken) -> mpsc::Receiver<Change> {
    watch_at(&client, scope, cancel, Pace::default())
}

/// Which objects are watched.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// An agent sees the pods of this node. `None`: a controller, which sees the reports of all nodes instead. If agents did,
    /// each report would cost the API server as much as there are nodes.
    pub node: Option<&'a str>,
    /// Bucket maps and reports of nodes in this namespace.
    pub namespace: &'a str,
}

/// [`watch`] at another pace.
pub(super) fn watch_at(
    client: &Client,
    scope: Scope<'_>,
    cancel: CancellationToken,
    pace: Pace,
) -> mpsc::Receiver<Change> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let config_maps = || Api::<DeserializeGuard<ConfigMap>>::namespaced(client.clone(), scope.namespace);
    let mut tasks = JoinSet::new();
    tasks.spawn(Follower::new(Api::all(client.clone()), &sender, Change::Service, pace).run());
    tasks.spawn(Follower::new(Api::all(client.clone()), &sender, Change::EndpointSlice, pace).run());
    tasks.spawn(Follower::new(Api::all(client.clone()), &sender, Change::Node, pace).run());
    tasks.spawn(service_cidrs::follow(client.clone(), sender.clone(), pace));
    let (label, value) = MAP_LABEL;
    let maps = Follower::new(config_maps(), &sender, Change::Map, pace).labels(format!("{label}={value}"));
    tasks.spawn(maps.run());
    if let Some(node) = scope.node {
        let pods = Api::<DeserializeGuard<Pod>>::all(client.clone());
        let own = format!("spec.nodeName={node}");
        tasks.spawn(Follower::new(pods, &sender, Change::Pod, pace).fields(own).run());
    } else {
        let (label, value) = REPORT_LABEL;
        let reports = Follower::new(config_maps(), &sender, Change::Report, pace).labels(format!("{label}={value}"));
        tasks.spawn(reports.run());
    }
    tokio::spawn(supervise(tasks, sender, cancel));
    receiver
}

/// Ends all watches when one has ended. The sender is held until then, so that the receiver's end means just this.
async fn supervise(mut tasks: JoinSet<()>, sender: mpsc::Sender<Change>, cancel: CancellationToken) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = sender.closed() => {}
        ended = tasks.join_next() => {
            if let Some(Err(error)) = ended {
                error!(%error, "a watch has panicked");
            }
        }
    }
    tasks.shutdown().await;
}
