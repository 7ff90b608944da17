//! Every mode, VIPs of both families over nodes and pods of either, every protocol: what `hack/demo --matrix` shows.

use std::process::Command;

use anyhow::{Context, Result, ensure};

fn every_cell_passes(modes: &str, cells: usize) -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_kst-lab")).args(["demo", "--matrix", "--modes", modes]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().last().context("it says nothing")?;
    ensure!(output.status.success() && last == format!("matrix: {cells}/{cells} cells passed"), "{text}");
    Ok(())
}

#[test]
fn vxlan_every_cell_of_the_matrix_passes() -> Result<()> {
    every_cell_passes("vxlan", 28)
}

#[test]
fn gre_and_mpls_every_cell_of_the_matrix_passes() -> Result<()> {
    every_cell_passes("gre,mpls", 56)
}
