//! ServiceCIDRs, which not every server has: `v1` since Kubernetes 1.33, `v1beta1` where it is switched on before.
//!
//! A server without them, or a role without the right to read them, holds nothing up: it is looked again from time to time. A
//! control plane that is being upgraded answers now so, now so, and what is known stays meanwhile.

use ::kube::{Api, Client};
use k8s_openapi::api::networking::{v1, v1beta1};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Pace;
use super::follow::{Follower, Shown};
use crate::kube::backoff::Backoff;
use crate::state::{Change, Watched};

/// Goes on until nobody wants the changes any more.
pub(super) async fn follow(client: Client, changes: mpsc::Sender<Change>, pace: Pace) {
    let mut stable = Follower::new(Api::all(client.clone()), &changes, Change::ServiceCidr, pace);
    let mut beta = Follower::new(Api::all(client), &changes, of_beta, pace);
    let mut backoff = Backoff::new(pace.retry, pace.absent_limit);
    loop {
        let shown = match stable.run_while_shown().await {
            Shown::Unknown => beta.run_while_shown().await,
            other => other,
        };
        let is_wanted = shown != Shown::Unwanted;
        if !is_wanted || changes.send(Change::ServiceCidr(Watched::Absent)).await.is_err() {
            return;
        }
        sleep(backoff.failed()).await;
    }
}

fn of_beta(watched: Watched<v1beta1::ServiceCIDR>) -> Change {
    Change::ServiceCidr(match watched {
        Watched::Init => Watched::Init,
        Watched::InitApply(object) => Watched::InitApply(stable(*object)),
        Watched::InitKeep(key) => Watched::InitKeep(key),
        Watched::InitDone => Watched::InitDone,
        Watched::Apply(object) => Watched::Apply(stable(*object)),
        Watched::Delete(key) => Watched::Delete(key),
        Watched::Absent => Watched::Absent,
    })
}

/// Both versions have the same fields.
fn stable(object: v1beta1::ServiceCIDR) -> Box<v1::ServiceCIDR> {
    let spec = object.spec.map(|spec| v1::ServiceCIDRSpec { cidrs: spec.cidrs });
    Box::new(v1::ServiceCIDR { metadata: object.metadata, spec, status: None })
}
