//! Who owns which lab: a lock file per lab, so that labs can run side by side and the leftovers of a killed one are known
//! for what they are.
//!
//! `/run/kst-lab/<prefix>` is locked by the process that runs the lab. A file that nobody locks is a lab whose owner died
//! (or one that was kept on purpose, which the file then says). Claiming and looking for leftovers exclude each other by a
//! lock on the directory, or a lab could be mistaken for a leftover between its file's creation and its lock.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::netns;

/// Where labs are registered.
pub(super) const STATE_DIR: &str = "/run/kst-lab";
/// What every lab's prefix starts with.
const STEM: &str = "kst";
/// Contents of the file of a lab that outlives its owner.
const KEPT: &str = "kept\n";

/// The ownership of one prefix.
#[derive(Debug)]
pub(super) struct Claim {
    prefix: String,
    file: File,
}

impl Claim {
    /// Takes a free prefix.
    pub fn take() -> Result<Claim> {
        let _guard = lock_directory()?;
        let taken = netns::list().context("list network namespaces")?;
        for candidate in candidates() {
            if taken.iter().any(|name| belongs_to(name, &candidate)) {
                continue;
            }
            match OpenOptions::new().read(true).write(true).create_new(true).open(path(&candidate)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                opened => {
                    let file = opened.with_context(|| format!("create {}", path(&candidate).display()))?;
                    file.lock().context("lock the new claim")?;
                    return Ok(Claim { prefix: candidate, file });
                }
            }
        }
        bail!("no free lab prefix: remove labs with `kst-lab lab down --all`");
    }

    /// Takes over a lab that exists. `None` if somebody runs it.
    pub fn take_over(prefix: &str) -> Result<Option<Claim>> {
        let file = OpenOptions::new().read(true).write(true).open(path(prefix));
        let file = file.with_context(|| format!("no lab {prefix}"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Claim { prefix: prefix.to_owned(), file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e).context("lock the claim"),
        }
    }

    /// The prefix of everything that the lab names.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Lets the lab outlive this process.
    pub fn keep(mut self) -> Result<()> {
        self.file.write_all(KEPT.as_bytes()).context("mark the lab as kept")
    }

    /// Gives the prefix back. Everything named by it must be gone.
    pub fn release(&self) -> Result<()> {
        match fs::remove_file(path(&self.prefix)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context("remove the claim"),
            _ => Ok(()),
        }
    }
}

/// Claims of labs whose owner died, taken over.
pub(super) fn abandoned() -> Result<Vec<Claim>> {
    let _guard = lock_directory()?;
    let mut claims = Vec::new();
    for prefix in prefixes()? {
        let kept = fs::read_to_string(path(&prefix)).is_ok_and(|text| text == KEPT);
        if !kept && let Ok(Some(claim)) = Claim::take_over(&prefix) {
            claims.push(claim);
        }
    }
    Ok(claims)
}

/// Every registered prefix.
pub(super) fn prefixes() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(STATE_DIR).with_context(|| format!("read {STATE_DIR}"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_prefix(&name) {
            found.push(name);
        }
    }
    Ok(found)
}

/// Exclusive access to the register as a whole, until the file is dropped.
pub(super) fn lock_directory() -> Result<File> {
    fs::create_dir_all(STATE_DIR).with_context(|| format!("create {STATE_DIR}"))?;
    let directory = File::open(STATE_DIR).with_context(|| format!("open {STATE_DIR}"))?;
    directory.lock().with_context(|| format!("lock {STATE_DIR}"))?;
    Ok(directory)
}

/// Whether a namespace of that name is part of the lab with that prefix.
pub(super) fn belongs_to(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-'))
}

fn is_prefix(name: &str) -> bool {
    name.strip_prefix(STEM)
        .is_some_and(|rest| rest.len() == 2 && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
}

fn path(prefix: &str) -> PathBuf {
    Path::new(STATE_DIR).join(prefix)
}

/// All two-character prefixes, beginning at one that depends on the process, so that neighbours rarely meet.
fn candidates() -> impl Iterator<Item = String> {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let count = DIGITS.len() * DIGITS.len();
    let start = usize::try_from(std::process::id()).unwrap_or_default();
    (0..count).map(move |i| {
        let n = (start + i) % count;
        let digit = |n: usize| char::from(DIGITS[n % DIGITS.len()]);
        format!("{STEM}{}{}", digit(n / DIGITS.len()), digit(n))
    })
}
