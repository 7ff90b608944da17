//! CPU time that the hypervisor gave to other machines: where a row's gaps may come from, if they come from nothing of ours.

use std::fs;

use anyhow::{Context, Result};

/// CPU time since boot, of all CPUs together, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CpuTime {
    all: u64,
    stolen: u64,
}

impl CpuTime {
    /// What it is now, by the first line of `/proc/stat`.
    ///
    /// # Errors
    /// A `/proc/stat` that is not as proc_stat(5) says.
    pub fn now() -> Result<CpuTime> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        parse(&text).context("/proc/stat does not begin with the sum of all CPUs")
    }

    /// How much of the time since then was stolen, in percent: `st` of top(1).
    pub fn stolen_since(self, then: CpuTime) -> u64 {
        let all = self.all.saturating_sub(then.all).max(1);
        self.stolen.saturating_sub(then.stolen) * 100 / all
    }
}

/// User, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user and nice.
fn parse(text: &str) -> Option<CpuTime> {
    let sum = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks = sum.split_ascii_whitespace().take(8).map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
    let [.., stolen] = *<&[u64; 8]>::try_from(ticks.as_slice()).ok()?;
    Some(CpuTime { all: ticks.iter().sum(), stolen })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stolen_is_a_share_of_all_time() {
        let then = parse("cpu  100 0 50 800 10 0 40 0 7 0\ncpu0 1 2 3\n").unwrap();
        let now = parse("cpu  130 0 60 900 10 0 50 50 9 0\ncpu0 1 2 3\n").unwrap();
        assert_eq!(then, CpuTime { all: 1000, stolen: 0 });
        assert_eq!((now.stolen_since(then), now.stolen_since(now)), (25, 0));
        assert_eq!([parse(""), parse("cpu0 1 2 3 4 5 6 7 8"), parse("cpu 1 2 3")], [None; 3]);
    }

    #[test]
    fn this_kernel_says_it() {
        let now = CpuTime::now().unwrap();
        assert!(now.all > now.stolen, "{now:?}");
    }
}
