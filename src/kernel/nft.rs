//! The `nft` program: one transaction as text on its standard input, one table as JSON.
//!
//! Text, because no library can express all that we need (verdict maps, `socket wildcard`), and because what is run can
//! be printed and pasted. The child inherits the namespace of the thread that spawns it.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use serde_json::Value;

use crate::plan::nft::{ObservedTable, TableFamily};
use crate::plan::{NFT_TABLE, PAUSED_TABLE, WITHDRAWN_TABLE};

use super::error::KernelError;
use super::nft_listing;
use super::nft_ruleset::{existing, generation};

/// How long `nft` may take: it lists anew whenever somebody changes the ruleset meanwhile, and may wait for locks of others.
const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of `nft`'s complaint that are kept: it repeats the script.
const COMPLAINT: usize = 2000;

/// Runs one transaction: all of it or nothing.
///
/// # Errors
/// [`KernelError::NftSpawn`], or [`KernelError::Nft`] with what `nft` said.
pub(super) fn run(script: &str) -> Result<(), KernelError> {
    succeed(&["-f", "-"], script).map(drop)
}

/// Our table of family inet; `None` if there is none.
///
/// # Errors
/// As `run`, [`KernelError::Malformed`] for JSON that is none, and the errors of a netlink socket.
pub fn list() -> Result<Option<ObservedTable>, KernelError> {
    let ours = (TableFamily::Inet, NFT_TABLE.to_owned());
    if existing()?.contains(&ours) { list_family(TableFamily::Inet) } else { Ok(None) }
}

/// What there is of ours.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Our tables.
    pub tables: BTreeMap<TableFamily, ObservedTable>,
    /// See [`generation`]; `None` if it went on meanwhile.
    pub generation: Option<u32>,
    /// `drain-node` has left its own.
    pub withdrawn: bool,
    /// A change of the rules has left its own.
    pub paused: bool,
}

/// Our tables of all families. What is known of the present generation is not listed again: `nft` is the slowest part of a look.
///
/// # Errors
/// As [`list`].
pub(super) fn list_all(known: Option<&Tables>) -> Result<Tables, KernelError> {
    let before = generation()?;
    if let Some(known) = known.filter(|known| known.generation == Some(before)) {
        return Ok(known.clone());
    }
    let existing = existing()?;
    let exists = |table: &str| existing.iter().any(|(_, name)| name == table);
    let (withdrawn, paused) = (exists(WITHDRAWN_TABLE), exists(PAUSED_TABLE));
    let mut tables = BTreeMap::new();
    for (family, _) in existing.iter().filter(|(_, name)| name == NFT_TABLE) {
        // It may have gone meanwhile.
        tables.extend(list_family(*family)?.map(|table| (*family, table)));
    }
    let generation = Some(before).filter(|before| generation().is_ok_and(|after| after == *before));
    Ok(Tables { tables, generation, withdrawn, paused })
}

fn list_family(family: TableFamily) -> Result<Option<ObservedTable>, KernelError> {
    match succeed(&["-j", "-n", "list", "table", &family.to_string(), NFT_TABLE], "") {
        Ok(json) => nft_listing::decode(&parse(&json)?).map(Some),
        // ENOENT in the C locale; there is no machine-readable form of it.
        Err(KernelError::Nft(complaint)) if complaint.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

/// One chain as text.
///
/// # Errors
/// [`KernelError::NftSpawn`], or [`KernelError::Nft`] with what `nft` said.
pub(super) fn chain(family: &str, table: &str, name: &str) -> Result<String, KernelError> {
    let text = succeed(&["list", "chain", family, table, name], "")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The version as `nft --version` prints it, `(1, 0, 6)`.
pub(super) fn version() -> Result<(u32, u32, u32), KernelError> {
    let output = spawn(&["--version"], "")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = text.split_whitespace().find_map(|word| word.strip_prefix('v'));
    let mut parts = word.unwrap_or_default().split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten(), parts.next().unwrap_or(Some(0))) {
        (Some(major), Some(minor), Some(patch)) => Ok((major, minor, patch)),
        _ => Err(KernelError::Malformed(format!("nft --version said {:?}", text.trim()))),
    }
}

/// Standard output of a run that succeeds; else [`KernelError::Nft`] with the complaint.
fn succeed(arguments: &[&str], input: &str) -> Result<Vec<u8>, KernelError> {
    let output = spawn(arguments, input)?;
    if output.status.success() { Ok(output.stdout) } else { Err(KernelError::Nft(complaint(&output))) }
}

fn parse(json: &[u8]) -> Result<Value, KernelError> {
    serde_json::from_slice(json).map_err(|e| KernelError::Malformed(format!("nft -j: {e}")))
}

fn spawn(arguments: &[&str], input: &str) -> Result<Output, KernelError> {
    run_within("nft", LIMIT, arguments, input)
}

/// Runs a program, and kills it when the time is up.
fn run_within(program: &str, limit: Duration, arguments: &[&str], input: &str) -> Result<Output, KernelError> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(KernelError::NftSpawn)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ends before it has read everything says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let (done, watched) = mpsc::channel::<()>();
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    let watchdog = std::thread::spawn(move || {
        let is_late = watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        // It has not been waited for, or only just now, so the number is still its own.
        is_late && pid.is_ok_and(|pid| kill(pid, Signal::SIGKILL).is_ok())
    });
    let output = child.wait_with_output().map_err(KernelError::NftSpawn);
    drop(done);
    if watchdog.join().unwrap_or(false) { Err(KernelError::NftTimeout(limit)) } else { output }
}

fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text: String = text.trim().chars().take(COMPLAINT).collect();
    if text.is_empty() { output.status.to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed() {
        let error = run_within("sleep", Duration::from_millis(10), &["1000"], "").unwrap_err();
        assert!(matches!(error, KernelError::NftTimeout(_)), "{error}");
        let output = run_within("cat", Duration::from_secs(100), &[], "text").unwrap();
        assert_eq!(output.stdout, b"text");
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        assert!(matches!(parse(b"segfault"), Err(KernelError::Malformed(_))));
    }
}
