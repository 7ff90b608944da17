//! A witness of kernel changes: a monitor of iproute2 or nftables that runs in a namespace and writes everything down.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::converge::PATIENCE;
use crate::lab::nft;
use crate::lab::stack::Stack;
use crate::netns::Netns;

/// What `ip` watches: all that is configured. Neighbours come and go with traffic.
const IP: &[&str] = &["ip", "-o", "monitor", "label", "link", "address", "route", "rule", "nexthop", "netconf"];
const NFT: &[&str] = &["nft", "monitor"];

/// A running monitor. Dropping it ends it.
struct Monitor {
    program: &'static str,
    _child: Child,
    lines: watch::Receiver<Vec<String>>,
}

/// Both monitors of one network stack.
pub struct Witness {
    stack: Stack,
    monitors: [Monitor; 2],
    signs: u8,
}

impl Monitor {
    fn start(netns: &Netns, words: &[&'static str]) -> Result<Monitor> {
        let (program, arguments) = words.split_first().context("a program")?;
        let mut command = Command::new(program);
        command.args(arguments).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = netns.spawn_async(&mut command)?;
        let mut output = BufReader::new(child.stdout.take().context("stdout of a monitor")?).lines();
        let (sender, lines) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = output.next_line().await {
                sender.send_modify(|lines| lines.push(line));
            }
        });
        Ok(Monitor { program, _child: child, lines })
    }

    async fn sees(&self, text: &str) -> Result<()> {
        let mut lines = self.lines.clone();
        let seen = lines.wait_for(|lines| lines.iter().any(|line| line.contains(text)));
        tokio::time::timeout(PATIENCE, seen).await.with_context(|| format!("no {text} from {}", self.program))??;
        Ok(())
    }
}

impl Witness {
    /// Starts the monitors and returns when both have shown that they see a change.
    pub async fn start(stack: &Stack) -> Result<Witness> {
        let monitors = [Monitor::start(stack.netns(), IP)?, Monitor::start(stack.netns(), NFT)?];
        let mut witness = Witness { stack: stack.clone(), monitors, signs: 0 };
        tokio::time::timeout(PATIENCE, witness.listening())
            .await
            .with_context(|| format!("{}: the monitors see nothing", stack.netns().name()))??;
        Ok(witness)
    }

    /// A monitor does not say when it has begun to listen, and a change from before is lost on it.
    async fn listening(&mut self) -> Result<()> {
        let mut changed = self.monitors.each_ref().map(|monitor| monitor.lines.clone());
        // What `wait_for` returns is a lock that would stop the reader of the monitor.
        let first = changed.iter_mut().map(|lines| async { lines.wait_for(|l| !l.is_empty()).await.map(drop) });
        let heard = futures::future::try_join_all(first);
        tokio::pin!(heard);
        loop {
            self.signs += 1;
            give_sign(&self.stack, self.signs).await?;
            tokio::select! {
                all = &mut heard => return all.map(drop).context("a monitor ended"),
                () = tokio::time::sleep(Duration::from_millis(300)) => {}
            }
        }
    }

    /// Makes a change and returns what the monitors saw of anybody else's changes up to now. That they see this one shows
    /// that they still listen and have reported all earlier ones.
    pub async fn changes(&mut self) -> Result<Vec<String>> {
        self.signs += 1;
        give_sign(&self.stack, self.signs).await?;
        self.monitors[0].sees(&address(self.signs)).await?;
        self.monitors[1].sees(&table(self.signs)).await?;
        let name = self.stack.netns().name();
        let lines = |m: &Monitor| m.lines.borrow().iter().map(|l| format!("{name}: {l}")).collect::<Vec<_>>();
        let mut all = self.monitors.iter().flat_map(lines).collect::<Vec<_>>();
        all.retain(|line| !is_sign(line) && !line.ends_with(": "));
        Ok(all)
    }
}

async fn give_sign(stack: &Stack, n: u8) -> Result<()> {
    // Not an address: on lo it would become the sender of ARP requests on devices that have none.
    stack.add_blackhole(([198, 18, 9, n].into(), 32), 999).await?;
    nft::load_async(stack.netns(), format!("add table inet {}", table(n))).await
}

fn address(n: u8) -> String {
    format!("198.18.9.{n} ")
}

fn table(n: u8) -> String {
    format!("witness_{n}_")
}

/// Our own change, or the line with which nft closes a transaction that it has printed.
fn is_sign(line: &str) -> bool {
    line.contains("198.18.9.") || line.contains("table inet witness_") || line.contains("# new generation")
}
