//! Loading nft rules the way everybody else does: through `nft -f -`.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

/// Runs `nft -f -` inside the namespace. Blocks until it has ended.
pub fn load(netns: &Netns, script: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = netns.spawn(&mut command)?;
    child.stdin.take().context("stdin of nft")?.write_all(script.as_bytes()).context("write rules to nft")?;
    let output = child.wait_with_output().context("wait for nft")?;
    if !output.status.success() {
        bail!("{}: nft: {}", netns.name(), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

/// [`load`] without blocking the runtime.
pub async fn load_async(netns: &Netns, script: String) -> Result<()> {
    let netns = netns.clone();
    tokio::task::spawn_blocking(move || load(&netns, &script)).await.context("nft task")?
}
