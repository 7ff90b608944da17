//! What processes have used, by their files in `/proc`.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Ticks of proc(5) per second: `USER_HZ`, which is the same on every architecture that we build for.
const TICKS: u64 = 100;
/// How long a process is watched to see whether it does anything.
const WINDOW: Duration = Duration::from_millis(300);
/// A process that uses less than this share of a CPU, in percent, only does what recurs.
const QUIET: f64 = 8.0;

/// CPU time of a process, of its threads and of the children that it has waited for.
pub fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let ticks = ticks(&text).with_context(|| format!("{path} is not as proc(5) says"))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// Fields 14 to 17: `utime`, `stime`, `cutime`, `cstime`. The name in field 2 may contain anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let times: Vec<u64> = fields.split_ascii_whitespace().skip(11).take(4).filter_map(|t| t.parse().ok()).collect();
    (times.len() == 4).then(|| times.iter().sum())
}

/// The most memory that a process has had resident, in MiB.
pub fn peak_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let kib = peak_kib(&text).with_context(|| format!("{path} has no VmHWM"))?;
    Ok(f64::from(kib) / 1024.0)
}

fn peak_kib(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_ascii_whitespace().next()?.parse().ok()
}

/// CPU time of the whole machine since boot that somebody used, this machine's guests and its host's others included.
pub fn busy() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let ticks = busy_ticks(&text).context("/proc/stat does not begin with the sum of all CPUs")?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// User, nice, system, irq, softirq and steal; idle and iowait are left out.
fn busy_ticks(stat: &str) -> Option<u64> {
    let sum = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = sum.split_ascii_whitespace().take(8).filter_map(|t| t.parse().ok()).collect();
    let [user, nice, system, _, _, irq, softirq, steal] = *<&[u64; 8]>::try_from(ticks.as_slice()).ok()?;
    Some(user + nice + system + irq + softirq + steal)
}

/// Waits until none of the processes does anything; says when that began, or nothing if it did not within the limit.
pub async fn quiet(pids: &[u32], limit: Duration) -> Result<Option<Instant>> {
    let total = || pids.iter().map(|pid| cpu(*pid)).sum::<Result<Duration>>();
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        let (began, before) = (Instant::now(), total()?);
        tokio::time::sleep(WINDOW).await;
        if share(total()? - before, began.elapsed()) < QUIET {
            return Ok(Some(began));
        }
    }
    Ok(None)
}

/// CPU time as a share of the time that passed, in percent of one CPU.
pub fn share(cpu: Duration, passed: Duration) -> f64 {
    100.0 * cpu.as_secs_f64() / passed.as_secs_f64().max(f64::EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_with_spaces_and_brackets() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 3 2 20 0 9 0 100 1000 50";
        assert_eq!((ticks(stat), ticks("42 (a) S 1 2"), ticks("")), (Some(17), None, None));
    }

    #[test]
    fn the_peak_is_read_in_kib() {
        assert_eq!(peak_kib("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n"), Some(2048));
        assert_eq!(peak_kib("Name:\tx\n"), None);
    }

    #[test]
    fn idle_time_is_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 3 400 500 4 5 6 7 8\ncpu0 1\n"), Some(21));
        assert_eq!(share(Duration::from_millis(500), Duration::from_secs(2)), 25.0);
    }

    #[test]
    fn this_process_has_used_something() {
        assert!(peak_mib(std::process::id()).unwrap() > 0.0);
        assert!(cpu(std::process::id()).unwrap() < busy().unwrap());
    }
}
