//! What a kubelet tells the API server of a pod, in the order of the recordings (`watch/pods-of-one-node`): the pod is pending;
//! then one update says that its container runs, under which addresses, and whether it is ready.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::World;
use super::echo::echo_at;
use super::objects;
use crate::lab::PodSpec;

/// How long an exchange may take; a VIP that is not there yet does not answer at all.
const TRY: Duration = Duration::from_millis(200);

impl World {
    /// A pod that a node is about to start, with annotations; returns its UID.
    pub fn create_pod(&self, name: &str, node: &str, app: &str, annotations: Value) -> Result<String> {
        let mut pod = objects::pod(&PodSpec::new(name, node), app);
        pod["metadata"]["annotations"] = annotations;
        let created = self.api.store().create(pod)?;
        Ok(created["metadata"]["uid"].as_str().context("a pod has a UID")?.to_owned())
    }

    /// A container of a pod runs at an address, and is ready.
    pub fn tell_running(&self, name: &str, address: IpAddr, container: &str) -> Result<()> {
        let mut status = objects::running(&[address]);
        status["status"]["containerStatuses"] = json!([{
            "name": "echo", "image": "echo", "imageID": "", "ready": true, "restartCount": 0,
            "containerID": format!("containerd://{container}"),
            "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } },
        }]);
        self.api.store().patch_status("pods", "default", name, status)?;
        Ok(())
    }

    /// Takes the sandbox of a pod of the lab away. The API does not hear of it.
    pub async fn lose_sandbox(&mut self, name: &str) -> Result<PodSpec> {
        let pod = self.lab.pod(name)?;
        let spec = PodSpec { uid: Some(pod.uid().to_owned()), ip: Some(pod.ip()), ..pod.spec().clone() };
        self.lab.remove_pod(name).await?;
        Ok(spec)
    }

    /// Makes the sandbox of a pod again, under its UID, with this address, and tells it in one update.
    pub async fn make_sandbox(&mut self, lost: PodSpec, ip: Ipv4Addr) -> Result<()> {
        let name = lost.name.clone();
        self.lab.add_pods(vec![PodSpec { ip: Some(ip), ..lost }]).await?;
        self.tell_running(&name, ip.into(), self.lab.pod(&name)?.container_id())
    }

    /// Every flow to the VIP is answered, soon enough.
    pub async fn answers_within(&self, vip: &str, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        loop {
            // So many that some go by each ingress node.
            let tally = self.client().with_patience(TRY).tcp_exchanges(10, echo_at(vip)?).await?;
            let took = began.elapsed();
            match tally.perfect() {
                Ok(_) if took <= limit => return Ok(took),
                Err(_) if took <= limit => {}
                result => {
                    let last = result.map_or_else(|error| format!("{error:#}"), |_| "answered".to_owned());
                    bail!("{vip} took longer than {limit:?} ({took:?}): {last}\n{}", self.logs());
                }
            }
        }
    }
}
