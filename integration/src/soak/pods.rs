//! Pods that come and go as Kubernetes makes them.
//!
//! A pod that is told to end is well-behaved: it serves on for a few seconds in any case (its `preStop` sleep), then until its
//! last connection is closed or its grace period is over. Only then does its process end, and after that its object.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::pace::Pace;
use super::stage::{Stage, WORKERS};
use super::traffic::Traffic;
use crate::lab::PodSpec;

/// How often it is looked at whether pods can end.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// A pod that has been told to end.
#[derive(Debug)]
pub(super) struct Ending {
    pub name: String,
    pub since: Instant,
}

impl Ending {
    /// One that is told so now.
    pub fn now(name: &str) -> Ending {
        Ending { name: name.to_owned(), since: Instant::now() }
    }

    /// Whether it may end: nobody is there any more, or its grace period is over.
    pub fn is_done(&self, pace: Pace, traffic: &Traffic) -> bool {
        let served = self.since.elapsed();
        served >= pace.grace || served >= pace.lives_on && traffic.on_pod(&self.name) == 0
    }
}

impl Stage {
    /// Starts pods of a Service; returns when they are ready.
    pub(super) async fn add_pods(&mut self, service: &'static str, count: usize) -> Result<()> {
        self.add_pods_on(service, &WORKERS, count).await
    }

    /// The same on these nodes, in turn.
    pub(super) async fn add_pods_on(&mut self, service: &'static str, nodes: &[&str], count: usize) -> Result<()> {
        let numbers = self.started..self.started + count;
        self.started += count;
        let spec = |n: usize| PodSpec::new(&format!("{service}-{n}"), nodes[n % nodes.len()]);
        let specs: Vec<PodSpec> = numbers.map(spec).collect();
        let names: Vec<String> = specs.iter().map(|spec| spec.name.clone()).collect();
        self.world.add_pods(specs.into_iter().map(|spec| (spec, service)).collect()).await?;
        for name in &names {
            self.names.insert(self.world.lab.pod(name)?.uid().to_owned(), name.clone());
        }
        self.pods.entry(service).or_default().extend(names);
        Ok(())
    }

    /// Tells a pod to end. Where `some_stay`, some of its clients stay until it does.
    pub(super) fn end_pod(&mut self, service: &'static str, name: &str, some_stay: bool) -> Result<()> {
        self.world.api.store().delete("pods", "default", name)?;
        self.traffic.leave(name, self.pace.clients_leave, some_stay);
        self.pods.entry(service).or_default().retain(|pod| pod != name);
        self.ending.push(Ending::now(name));
        Ok(())
    }

    /// Ends the pods whose time has come.
    pub(super) async fn end_pods(&mut self) -> Result<()> {
        let (traffic, pace) = (&self.traffic, self.pace);
        let done: Vec<Ending> = self.ending.extract_if(.., |pod| pod.is_done(pace, traffic)).collect();
        for pod in done {
            self.traffic.pod_ends(&pod.name);
            self.world.lab.pod_mut(&pod.name)?.stop_process().await?;
            self.traffic.pod_has_ended(&pod.name);
            self.world.remove_pod(&pod.name).await?;
        }
        Ok(())
    }

    /// Waits until all pods that have been told to end have done so.
    pub(super) async fn all_ended(&mut self) -> Result<()> {
        while !self.ending.is_empty() {
            tokio::time::sleep(LOOK).await;
            self.end_pods().await?;
        }
        Ok(())
    }

    /// The pods of a Service that have not been told to end.
    pub(super) fn pods_of(&self, service: &str) -> Vec<String> {
        self.pods.get(service).cloned().unwrap_or_default()
    }

    /// Makes it so many, as the first step of a fault that needs them.
    pub(super) async fn scaled_to(&mut self, service: &'static str, count: usize) -> Result<()> {
        let pods = self.pods_of(service);
        if pods.len() < count {
            self.add_pods(service, count - pods.len()).await?;
        }
        for pod in pods.iter().skip(count) {
            self.end_pod(service, pod, false)?;
        }
        if pods.len() == count { Ok(()) } else { self.in_order().await.context("scale first") }
    }
}
