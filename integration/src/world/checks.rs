//! What tests break and look at: commands inside a namespace and what they print, flows that must all come through, lines of a log.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::World;
use super::converge::PATIENCE;
use crate::netns::Netns;
use crate::pod::DEFAULT_PORT;
use crate::traffic::{Client, Sources, Tally};

/// How long each step of a flow may take that is expected to succeed.
const FLOW_PATIENCE: Duration = Duration::from_secs(8);

/// In what a command has printed: the word after `key` in the first line that contains `mark`.
pub fn word_after(text: &str, mark: &str, key: &str) -> Result<String> {
    let line = text.lines().find(|line| line.contains(mark));
    let line = line.with_context(|| format!("no line with {mark:?} in:\n{text}"))?;
    let word = line.split_whitespace().skip_while(|word| *word != key).nth(1);
    Ok(word.with_context(|| format!("no {key} in {line:?}"))?.to_owned())
}

impl World {
    /// Runs a command, its words separated by blanks, inside a namespace. It must succeed; returns its standard output.
    pub fn run_in(netns: &Netns, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().context("an empty command")?);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = tokio::task::block_in_place(|| netns.spawn(&mut command)?.wait_with_output().context("wait"))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {line}: {}", netns.name(), complaint.trim_end());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Half of the flows by TCP, half by UDP, from all addresses of the client: every one must come through untouched.
    pub async fn perfect(&self, vip: &str, flows: usize) -> Result<Tally> {
        let target = SocketAddr::new(vip.parse()?, DEFAULT_PORT);
        let sources = Sources { addresses: self.lab.client_addresses(), first_port: None };
        let client = Client::new(self.lab.client()).with_sources(sources).with_patience(FLOW_PATIENCE);
        let mut tally = client.tcp_exchanges(flows / 2, target).await?;
        tally.merge(client.udp_exchanges(flows - flows / 2, target).await?);
        let text = tally.to_string();
        tally.perfect().with_context(|| format!("{text}\n{}", self.logs()))
    }

    /// Waits until the log of a node's agent has this text.
    pub async fn logged(&self, node: &str, text: &str) -> Result<()> {
        let agent = self.agents.get(node).with_context(|| format!("no agent runs on {node}"))?;
        let says = || {
            ensure!(agent.log().contains(text), "not in its log:\n{}", agent.tail(30));
            Ok(())
        };
        eventually(&format!("the agent of {node} says {text:?}"), says).await
    }
}

/// Looks again and again until it holds; gives up with the last error when that takes longer than anything may.
pub async fn eventually(what: &str, holds: impl Fn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = holds() {
        ensure!(Instant::now() < deadline, "{what}: never: {error:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
