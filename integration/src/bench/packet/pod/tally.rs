//! What has been counted: by the pod's TCP, by the program, and by the device that leads to the pod.

use std::fs;

use anyhow::{Context, Result, ensure};
use tunnel_router::model::second_chance::{Count, Counts};

use super::case::Fate;
use super::ours::Programmed;
use super::site::PodSite;

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    received: u64,
    resets: u64,
    sent: u64,
    program: Counts,
}

impl Tally {
    /// Reads all of them.
    pub fn read(site: &PodSite, programmed: &Programmed) -> Result<Tally> {
        // /proc/net would be that of the main thread's namespace.
        let read = || fs::read_to_string("/proc/thread-self/net/snmp");
        let text = site.pod().run_io("read what TCP has counted", read)?;
        let of = |name| of_tcp(&text, name).with_context(|| format!("TCP does not count {name}:\n{text}"));
        let sent = u64::try_from(site.sent()?)?;
        Ok(Tally { received: of("InSegs")?, resets: of("OutRsts")?, sent, program: programmed.counts()? })
    }

    /// Checks that all of these packets, and no others, have met this fate since.
    ///
    /// # Errors
    /// What was counted instead.
    pub fn verify(&self, before: &Tally, fate: Fate, packets: usize) -> Result<()> {
        let (packets, effect) = (u64::try_from(packets)?, fate.effect());
        let seen = Tally {
            received: self.received - before.received,
            resets: self.resets - before.resets,
            sent: self.sent - before.sent,
            program: self.program.since(&before.program),
        };
        let wanted = Tally {
            received: packets * effect.received,
            resets: packets * effect.resets,
            sent: packets * effect.sent,
            program: Counts::new(|kind: Count| if effect.count == Some(kind) { packets } else { 0 }),
        };
        ensure!(seen == wanted, "packets met another fate than {fate}: {seen:?} instead of {wanted:?}");
        Ok(())
    }
}

/// A number of `Tcp:` in `/proc/net/snmp`: the first line of that name has the titles, the second one the numbers.
fn of_tcp(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let at = lines.next()?.split_whitespace().position(|title| title == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_tcp_is_found_by_its_title() {
        let text = "Ip: InSegs\nIp: 9\nTcp: ActiveOpens MaxConn InSegs\nTcp: 3 -1 25\nUdp: InSegs\nUdp: 8\n";
        assert_eq!([of_tcp(text, "InSegs"), of_tcp(text, "MaxConn"), of_tcp(text, "OutRsts")], [Some(25), None, None]);
    }
}
