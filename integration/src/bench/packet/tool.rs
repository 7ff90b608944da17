//! Running the programs of an administrator, with text on their standard input.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;

/// Runs a program inside a namespace.
pub fn run(netns: &Netns, program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut command = command(program, arguments);
    finish(netns.spawn(&mut command)?, program, input)
}

/// Runs a program in the namespace of the caller.
pub fn run_here(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let child = command(program, arguments).spawn().with_context(|| format!("start {program}"))?;
    finish(child, program, input)
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn finish(mut child: Child, program: &str, input: &str) -> Result<()> {
    let mut pipe = child.stdin.take().with_context(|| format!("standard input of {program}"))?;
    let written = pipe.write_all(input.as_bytes());
    drop(pipe);
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    // A program that ends before it has read everything says why.
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    written.with_context(|| format!("write to {program}"))
}
