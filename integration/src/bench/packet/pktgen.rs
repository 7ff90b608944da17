//! The generator: the kernel's own, driven through `/proc/net/pktgen` of its namespace.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tunnel_router::model::Family;

use super::site::{FLOWS, GENERATOR_DEVICE, PORT, Site};
use crate::netns::Netns;

/// First source port of the flows.
const FIRST_PORT: u16 = 2000;

/// A device that sends to the VIP on request.
pub struct Generator {
    netns: Netns,
}

impl Generator {
    /// Gives the device its orders.
    pub fn new(site: &Site, uplink_mac: &str) -> Result<Generator> {
        let generator = Generator { netns: site.generator().clone() };
        generator.order("kpktgend_0", &format!("add_device {GENERATOR_DEVICE}"))?;
        let (vip, client) = (site.vip(), site.client());
        let addresses = match site.family {
            Family::V4 => [format!("dst {vip}"), format!("src_min {client}"), format!("src_max {client}")].to_vec(),
            Family::V6 => [format!("dst6 {vip}"), format!("src6 {client}")].to_vec(),
        };
        let rest = [
            format!("dst_mac {uplink_mac}"),
            "pkt_size 100".to_owned(),
            "delay 0".to_owned(),
            // Else each packet is a clone of the first, and who writes into one has to copy it.
            "flag !SHARED".to_owned(),
            // One after the other; the last port is not used.
            format!("udp_src_min {FIRST_PORT}"),
            format!("udp_src_max {}", FIRST_PORT + FLOWS),
            format!("udp_dst_min {PORT}"),
            format!("udp_dst_max {PORT}"),
        ];
        addresses.iter().chain(&rest).try_for_each(|order| generator.order(GENERATOR_DEVICE, order))?;
        Ok(generator)
    }

    /// Sends that many packets and returns how long it took, by the kernel's clock and without idling.
    pub fn send(&self, packets: usize) -> Result<Duration> {
        self.order(GENERATOR_DEVICE, &format!("count {packets}"))?;
        // Returns when it is done.
        self.order("pgctrl", "start")?;
        let text = self.netns.run_io("read pktgen's result", || fs::read_to_string(path(GENERATOR_DEVICE)))?;
        let (spent, sent) = result(&text).with_context(|| format!("pktgen says:\n{text}"))?;
        ensure!(sent == packets, "pktgen sent {sent} of {packets} packets:\n{text}");
        Ok(spent)
    }

    fn order(&self, file: &str, order: &str) -> Result<()> {
        let action = format!("pktgen {file}: {order}");
        // It takes the last byte for the end of a line, whatever it is.
        Ok(self.netns.run_io(&action, || fs::write(path(file), format!("{order}\n")))?)
    }
}

/// `/proc/net` would be that of the main thread's namespace.
fn path(file: &str) -> String {
    format!("/proc/thread-self/net/pktgen/{file}")
}

/// Time and packets of `Result: OK: 1234(c1230+d4) usec, 20000 (100byte,0frags)`: `c` is what `d`, the idling, leaves.
fn result(text: &str) -> Option<(Duration, usize)> {
    let (_, result) = text.split_once("Result: OK:")?;
    let (_, busy) = result.split_once("(c")?;
    let (microseconds, rest) = busy.split_once('+')?;
    let (_, rest) = rest.split_once("usec, ")?;
    let (packets, _) = rest.split_once(' ')?;
    Some((Duration::from_micros(microseconds.parse().ok()?), packets.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_a_run_is_read() {
        let text = "Current:\n     pkts-sofar: 20000  errors: 0\nResult: OK: 107401(c107399+d2) usec, 20000 (100byte,0frags)\n  186217pps";
        assert_eq!(result(text), Some((Duration::from_micros(107_399), 20_000)));
        assert_eq!(result("Result: Idle"), None);
    }
}
