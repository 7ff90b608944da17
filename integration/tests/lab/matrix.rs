//! Every mode, VIPs of both families over nodes and pods of either, every protocol: what `hack/demo --matrix` shows.

use std::process::Command;

use anyhow::{Context, Result, ensure};

#[test]
fn gre_and_mpls_every_cell_of_the_matrix_passes() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_kst-lab")).args(["demo", "--matrix"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().last().context("it says nothing")?;
    ensure!(output.status.success() && last == "matrix: 84/84 cells passed", "{text}");
    Ok(())
}
