//! Pods that fail, and come back or are replaced.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;

use crate::lab::PodSpec;
use crate::soak::stage::{FEW, Stage};
use crate::world::echo::SERVICE;

/// How long it takes until the API knows that a pod is not ready.
const PROBED: Duration = Duration::from_secs(1);
/// Last byte of addresses that no other pod has.
const FREE: u8 = 200;

impl Stage {
    /// Its connections are reset; datagrams must go elsewhere once it is known.
    pub(in crate::soak) async fn pod_crashed(&mut self) -> Result<()> {
        let pod = self.pods_of(SERVICE).swap_remove(0);
        self.traffic.fault_now();
        self.traffic.pod_ends(&pod);
        self.world.lab.pod_mut(&pod)?.stop_process().await?;
        self.traffic.pod_has_ended(&pod);
        self.observe(PROBED).await?;
        self.traffic.told_now();
        self.world.set_ready(&pod, false)?;
        self.observe(self.pace.observe).await?;
        self.forget_pods(&[(SERVICE, pod)]).await?;
        self.add_pods(SERVICE, 1).await
    }

    /// The same pod with another network namespace and another address, after a while that the API hears nothing in.
    pub(in crate::soak) async fn sandbox_recreated(&mut self) -> Result<()> {
        let pod = self.pods_of(SERVICE).swap_remove(0);
        self.traffic.fault_now();
        self.traffic.pod_ends(&pod);
        let lost = self.world.lose_sandbox(&pod).await?;
        self.traffic.pod_has_ended(&pod);
        self.observe(PROBED).await?;
        let [a, b, c, last] = lost.ip.map_or([0; 4], |ip| ip.octets());
        let ip = Ipv4Addr::new(a, b, c, if last == FREE { FREE + 1 } else { FREE });
        self.world.lab.add_pods(vec![PodSpec { ip: Some(ip), ..lost }]).await?;
        self.traffic.told_now();
        self.world.set_ready(&pod, true)?;
        self.observe(self.pace.observe).await
    }

    /// The newcomers answer every SYN with a cookie, as they do when their queues are full.
    pub(in crate::soak) async fn scale_up_with_cookies(&mut self) -> Result<()> {
        self.scaled_to(SERVICE, FEW).await?;
        let old = self.pods_of(SERVICE);
        self.add_pods(SERVICE, FEW).await?;
        let mut new = self.pods_of(SERVICE);
        new.retain(|pod| !old.contains(pod));
        new.iter().try_for_each(|pod| self.set_cookies(pod, "2"))?;
        self.traffic.fault_now();
        self.observe(self.pace.observe).await?;
        new.iter().try_for_each(|pod| self.set_cookies(pod, "1"))
    }

    /// 1: only when a queue is full; 2: always.
    fn set_cookies(&self, pod: &str, when: &str) -> Result<()> {
        Ok(self.world.lab.pod(pod)?.netns().set_sysctl("net/ipv4/tcp_syncookies", when)?)
    }
}
