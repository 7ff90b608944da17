//! All numeric sysctls of the namespace that the thread is in.

use std::fs;
use std::io;
use std::path::Path;

const ROOT: &str = "/proc/sys/net";
/// What belongs to a network stack and not to the machine.
const FAMILIES: &[&str] = &["ipv4", "ipv6", "mpls", "netfilter"];
/// What changes without anybody writing it.
const VOLATILE: &[&str] = &["netfilter/nf_conntrack_count"];

/// One line per sysctl, sorted. A family that the kernel does not have has no lines.
pub(super) fn lines() -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    for family in FAMILIES {
        match walk(Path::new(ROOT).join(family).as_path(), &mut lines) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    lines.sort();
    Ok(lines)
}

fn walk(directory: &Path, lines: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), lines)?;
        } else if let Some(value) = numbers(&entry.path()) {
            let path = entry.path();
            let key = path.strip_prefix(ROOT).unwrap_or(&path).display().to_string();
            if !VOLATILE.contains(&key.as_str()) {
                lines.push(format!("sysctl net/{key} = {value}"));
            }
        }
    }
    Ok(())
}

/// The value, if it can be read (some can only be written) and is made of numbers.
fn numbers(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let numeric = !words.is_empty() && words.iter().all(|word| word.parse::<i128>().is_ok());
    numeric.then(|| words.join(" "))
}
