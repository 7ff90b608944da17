//! One leader among several processes, by a `coordination.k8s.io/v1` Lease, as client-go elects one (tools/leaderelection):
//! whoever holds the Lease renews it; when it has not been renewed for its whole duration, by the clock of whoever looks, it
//! is taken over. Clocks of different machines are never compared.

use std::time::Duration;

use ::kube::api::PostParams;
use ::kube::{Api, Client};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::outage::Outage;
use super::own::{RequestError, answer};

/// client-go's defaults: a leader that dies is replaced after 15 to 17 seconds.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that cannot renew for so long steps down, well before another one may step in.
const DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
/// For one try: with [`RETRY`] between, two failed ones end before somebody else may step in.
const ANSWER: Duration = Duration::from_secs(4);

/// Stands for election.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The Lease as it was seen last, and since when it is so.
    seen: Option<(Lease, Instant)>,
    /// When we renewed it last.
    renewed: Option<Instant>,
    outage: Outage,
}

impl Election {
    /// Stands for the Lease `name` as `identity`, which no other process may use.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Election {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
            renewed: None,
            outage: Outage::new(format!("hold Lease {namespace}/{name}")),
        }
    }

    /// Says in `leading` whether we lead, until the token is cancelled; then the Lease is given back.
    pub async fn run(mut self, leading: watch::Sender<bool>, cancel: CancellationToken) {
        loop {
            match answer(ANSWER, self.attempt()).await {
                Ok(()) => self.outage.over(),
                // Somebody else was faster: look again.
                Err(RequestError::Conflict) => {}
                Err(error) => self.outage.failed(&error),
            }
            let leads = self.renewed.is_some_and(|renewed| renewed.elapsed() < DEADLINE);
            if leading.send_if_modified(|was| std::mem::replace(was, leads) != leads) {
                info!(identity = self.identity, leads, "leadership has changed");
            }
            if cancel.run_until_cancelled(sleep(RETRY)).await.is_none() {
                break;
            }
        }
        leading.send_replace(false);
        self.give_back().await;
    }

    /// Acquires or renews if that is our right.
    async fn attempt(&mut self) -> ::kube::Result<()> {
        // What is renewed now counts from before the request.
        let now = Instant::now();
        let found = self.api.get_opt(&self.name).await?;
        let Some(lease) = found else {
            let lease = self.claim(Lease::default());
            let made = self.api.create(&PostParams::default(), &lease).await?;
            self.holds(made, now);
            return Ok(());
        };
        self.saw(&lease, now);
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let ours = holder == self.identity;
        let duration =
            spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map_or(DURATION, Duration::from_secs);
        let expired = self.seen.as_ref().is_none_or(|(_, since)| since.elapsed() >= duration);
        if !ours {
            self.renewed = None;
        }
        if ours || holder.is_empty() || expired {
            let lease = self.claim(lease);
            let made = self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            self.holds(made, now);
        }
        Ok(())
    }

    fn saw(&mut self, lease: &Lease, now: Instant) {
        let same = |(old, _): &(Lease, Instant)| old.spec == lease.spec;
        if !self.seen.as_ref().is_some_and(same) {
            self.seen = Some((lease.clone(), now));
        }
    }

    fn holds(&mut self, lease: Lease, since: Instant) {
        self.saw(&lease, since);
        self.renewed = Some(since);
    }

    /// The Lease with us as its holder, renewed now. Its resourceVersion stays: only who has seen the last one may write.
    fn claim(&self, lease: Lease) -> Lease {
        let now = MicroTime(Timestamp::now());
        let old = lease.spec.unwrap_or_default();
        let ours = old.holder_identity.as_ref() == Some(&self.identity);
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..lease.metadata };
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if ours { old.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }

    /// Lets another one step in at once.
    async fn give_back(&mut self) {
        let (Some(_), Some((mut lease, _))) = (self.renewed, self.seen.take()) else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        let replaced = answer(ANSWER, self.api.replace(&self.name, &PostParams::default(), &lease)).await;
        if let Err(error) = replaced {
            warn!(%error, "cannot give the Lease back, another controller steps in when it has run out");
        }
    }
}
