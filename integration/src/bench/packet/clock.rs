//! What a nanosecond of the clock is: one instruction, or the numbers mean something else.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Two instructions each.
const ROUNDS: u32 = 200_000_000;
/// The timer's interrupts take their share, and starting a process does not cost the same every time.
const TOLERANCE: f64 = 0.02;

/// Times a program whose instructions are known.
///
/// # Errors
/// The clock does not count instructions, or there is more than one CPU to count those of.
pub fn nanoseconds_per_instruction() -> Result<f64> {
    let cpus = std::thread::available_parallelism().context("count the CPUs")?;
    ensure!(cpus.get() == 1, "there are {cpus} CPUs, and one is needed: run hack/bench packet");
    // What starting and ending a process costs is in both, but the first one pays for what is not in memory yet.
    time(1)?;
    let (short, long) = (time(1)?, time(ROUNDS)?);
    let ratio = long.saturating_sub(short).as_secs_f64() * 1e9 / (2.0 * f64::from(ROUNDS));
    ensure!(
        (ratio - 1.0).abs() < TOLERANCE,
        "the clock does not count instructions ({ratio:.3} ns each): run hack/bench packet"
    );
    Ok(ratio)
}

fn time(rounds: u32) -> Result<Duration> {
    let directory = tempfile::tempdir().context("make a directory")?;
    let path = directory.path().join("count");
    fs::write(&path, program(rounds)).context("write a program")?;
    fs::set_permissions(&path, Permissions::from_mode(0o700)).context("make a program executable")?;
    let started = Instant::now();
    let status = Command::new(&path).status().context("run a program for x86-64")?;
    let spent = started.elapsed();
    ensure!(status.success(), "a loop of {rounds} rounds ended with {status}");
    Ok(spent)
}

/// An ELF program for x86-64 that counts down from `rounds` and exits: neither compiler nor library has a say in what it
/// executes.
fn program(rounds: u32) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let code = [
        &[0xb9][..],
        &rounds.to_le_bytes(), // mov ecx, rounds
        &[0xff, 0xc9],         // dec ecx
        &[0x75, 0xfc],         // jnz, back to dec
        &[0xb8, 60, 0, 0, 0],  // mov eax, 60: exit(2)
        &[0x31, 0xff],         // xor edi, edi
        &[0x0f, 0x05],         // syscall
    ]
    .concat();
    let size = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // ET_EXEC, EM_X86_64, EV_CURRENT
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    // Entry point; the program header follows at once; no sections.
    elf.extend([BASE + HEADERS, 64, 0].map(u64::to_le_bytes).concat());
    // Flags; sizes of headers; one program header.
    elf.extend([0, 0, 64, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    // PT_LOAD, read and execute; offset, addresses, sizes, alignment.
    elf.extend([1, 5].map(u32::to_le_bytes).concat());
    elf.extend([0, BASE, BASE, size, size, 0x1000].map(u64::to_le_bytes).concat());
    elf.extend(code);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_program_counts_down_and_ends() {
        assert!(time(1000).unwrap() > Duration::ZERO);
    }
}
