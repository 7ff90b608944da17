//! What one packet costs in a pod, in instructions.
//!
//! ```text
//!  node ── e0 ═══ eth0 ── pod
//!  (sends one frame again and again)   (guard, tunnel device, program, TCP)
//! ```
//!
//! The frames are outer packets with a TCP segment inside, which pktgen cannot make: a packet socket sends them. Its cost is
//! in every number, and the same in every case. What the pod sends is dropped at the ingress hook of `e0`.
//!
//! A number is only printed for packets that met the fate that the case is named after: in every run the pod's TCP, the
//! program and the device have counted each packet, and in a short one all that the pod sends is looked at.
//!
//! - [`case::PodCase`]: what there is to measure
//! - `site`: the two namespaces, new for every case
//! - `ours`: the product's own code sets the pod up, attaches the program and fills its tables
//! - `packet`: the frames; `tally`: what has been counted

pub mod case;
mod ours;
mod packet;
mod site;
mod tally;

use std::net::TcpListener;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tunnel_router::model::second_chance::{Name, TunnelId};

use super::frame::{Frame, Wrapping};
use super::report::Measured;
use super::{FEW, PACKETS, RUNS, SETTLING};
use crate::traffic::packet::{ACK, RST, SYN, Segment, TCP};
use case::{Fate, PodCase};
use ours::Programmed;
use packet::Sender;
use site::PodSite;
use tally::Tally;

/// A port where somebody listens.
const OPEN: u16 = 80;
/// A port where nobody does.
const CLOSED: u16 = 9;
/// The client's port of the connection that is open.
const CLIENT: u16 = 2000;
/// A client's port of which the pod knows nothing.
const STRAY: u16 = 2001;

/// Measures one case.
///
/// # Errors
/// What could not be set up, or which packets met another fate.
pub async fn measure(case: PodCase) -> Result<Measured> {
    let site = PodSite::build(case.family).await?;
    let programmed = ours::program(&site, case)?;
    let vip = site.ends(CLIENT, OPEN).1;
    let listen = || TcpListener::bind(vip);
    let _listener = site.pod().run_io(&format!("listen on {vip}"), listen)?;
    let sender = Sender::open(&site, case.mode).await?;
    let bench = Bench { case, id: id(case.fate)?, site, programmed, sender };
    std::thread::sleep(SETTLING);
    let segment = bench.segment()?;
    bench.look(&segment)?;
    let mut runs = (0..2 * RUNS).map(|_| bench.instructions_per_packet(&segment)).collect::<Result<Vec<_>>>()?;
    // Unlike pktgen, a sender in user space is interrupted by other processes. That can only add.
    runs.sort_by(f64::total_cmp);
    runs.truncate(RUNS);
    Ok(Measured::of(&runs))
}

/// As an ingress node sends it.
fn id(fate: Fate) -> Result<TunnelId> {
    let former = fate.names_former().then(|| Name::new(ours::FORMER)).transpose()?;
    Ok(TunnelId::of(former, true))
}

struct Bench {
    case: PodCase,
    id: TunnelId,
    site: PodSite,
    programmed: Programmed,
    sender: Sender,
}

impl Bench {
    /// The segment that is sent again and again.
    fn segment(&self) -> Result<Segment> {
        let fate = self.case.fate;
        if fate.opens() {
            return Ok(segment(&self.site, (CLIENT, CLOSED), (1000, 0), SYN));
        }
        let answer = self.connect()?;
        let port = if fate == Fate::PassedOn { STRAY } else { CLIENT };
        Ok(segment(&self.site, (port, OPEN), (1001, answer.wrapping_add(1)), ACK))
    }

    /// Opens a connection; returns the pod's first sequence number.
    fn connect(&self) -> Result<u32> {
        let witness = self.site.witness()?;
        self.sender.send(TunnelId::OWNER_ALONE, &segment(&self.site, (CLIENT, OPEN), (1000, 0), SYN), 1)?;
        let frames = self.site.of_pod(&witness.seen()?);
        let answers = frames.iter().filter_map(|frame| Segment::parse(frame.inner, &frame.payload));
        let answer = answers.filter(|answer| answer.flags == SYN | ACK).map(|answer| answer.seq).next();
        let answer = answer.with_context(|| format!("the pod opens no connection: {frames:?}"))?;
        let last = segment(&self.site, (CLIENT, OPEN), (1001, answer.wrapping_add(1)), ACK);
        self.sender.send(TunnelId::OWNER_ALONE, &last, 1)?;
        Ok(answer)
    }

    /// A short run, of which all that the pod sends is looked at.
    fn look(&self, segment: &Segment) -> Result<()> {
        let witness = self.site.witness()?;
        self.send(segment, FEW)?;
        let frames = self.site.of_pod(&witness.seen()?);
        let other = frames.iter().find(|frame| !self.is_expected(frame, segment));
        ensure!(other.is_none(), "the pod sends something else: {other:?}");
        Ok(())
    }

    fn is_expected(&self, frame: &Frame, sent: &Segment) -> bool {
        let Some(seen) = Segment::parse(frame.inner, &frame.payload).filter(|_| frame.protocol == TCP) else {
            return false;
        };
        if self.case.fate == Fate::PassedOn {
            let passed_on = TunnelId::OWNER_ALONE.passed_on().bits();
            let way = (frame.wrapping, frame.outer, frame.id);
            let outer = (self.site.pod_address(), self.site.former_address());
            return seen == *sent && way == (Wrapping::Tunnel(self.case.mode), Some(outer), passed_on);
        }
        let answers = (seen.source, seen.destination) == (sent.destination, sent.source);
        frame.wrapping == Wrapping::Bare && answers && seen.flags & RST != 0
    }

    fn instructions_per_packet(&self, segment: &Segment) -> Result<f64> {
        std::thread::sleep(SETTLING);
        // Caches are filled when the measured run begins.
        self.send(segment, FEW)?;
        self.send(segment, PACKETS)
    }

    /// Sends packets, makes sure that each has met its fate, and returns what one costs.
    fn send(&self, segment: &Segment, packets: usize) -> Result<f64> {
        let before = Tally::read(&self.site, &self.programmed)?;
        let started = Instant::now();
        self.sender.send(self.id, segment, packets)?;
        let spent = started.elapsed();
        Tally::read(&self.site, &self.programmed)?.verify(&before, self.case.fate, packets)?;
        #[allow(clippy::cast_precision_loss, reason = "20,000 is exact in 53 bits")]
        Ok(spent.as_secs_f64() * 1e9 / packets as f64)
    }
}

/// A segment of a client to the VIP: their ports, sequence number and what is acknowledged.
fn segment(site: &PodSite, (port, vip_port): (u16, u16), (seq, ack): (u32, u32), flags: u8) -> Segment {
    let (source, destination) = site.ends(port, vip_port);
    Segment { source, destination, seq, ack, flags }
}
