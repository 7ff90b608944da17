//! What runs in a pod: echo servers, TCP, UDP and raw, that say who answered and whom they saw.
//!
//! They behave like the plain programs that people run: bound to the wildcard address, answering a datagram with a plain
//! `sendto`, knowing nothing of VIPs. Each line or datagram `data` is answered with
//!
//! ```text
//! <pod name> <peer address>:<port> <local address> <DATA>
//! ```
//!
//! The local address of a datagram is only looked at (`IP_PKTINFO`), not used for the answer: that the answer leaves
//! from the right address is what the product has to achieve.

mod raw;
mod tcp;
mod udp;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::lab::Family;
use crate::protocol::Protocol;
use raw::RawServer;

/// Port of the echo servers, unless told otherwise.
pub const DEFAULT_PORT: u16 = 12345;
/// The line on standard output that says that all servers listen.
pub const READY: &str = "ready";

/// Arguments of the hidden subcommand `pod`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The name that answers carry.
    #[arg(long)]
    pub name: String,
    /// Port to serve, TCP and UDP; may be repeated.
    #[arg(long = "port", default_values_t = [DEFAULT_PORT])]
    pub ports: Vec<u16>,
    /// Address to bind; may be repeated.
    #[arg(long = "bind", default_values_t = [IpAddr::V4(Ipv4Addr::UNSPECIFIED)])]
    pub bind: Vec<IpAddr>,
    /// Serve IPv6 as well: adds the wildcard address `::`.
    #[arg(long)]
    pub dual: bool,
    /// Serve IP protocols that have no sockets of their own (SCTP, ESP, GRE, 253), in the families of the addresses.
    #[arg(long)]
    pub raw: bool,
    /// Go on when the standard input ends.
    #[arg(long)]
    pub detached: bool,
}

/// Serves until SIGTERM, or until the standard input ends.
pub async fn run(args: Args) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let addresses = addresses(&args);
    let mut servers = Servers::start(&args.name, &addresses)?;
    if args.raw {
        servers.add_raw(&args.name, &addresses)?;
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{READY}").and_then(|()| stdout.flush()).context("say that the servers listen")?;
    tokio::select! {
        _ = terminate.recv() => {}
        () = input_end(), if !args.detached => {}
    }
    drop(servers);
    Ok(())
}

fn addresses(args: &Args) -> Vec<SocketAddr> {
    let wildcard = args.dual.then_some(IpAddr::from([0; 16]));
    let hosts = args.bind.iter().copied().chain(wildcard);
    hosts.flat_map(|ip| args.ports.iter().map(move |port| SocketAddr::new(ip, *port))).collect()
}

/// Returns when the other end of the standard input is closed. On a plain thread: a blocking read on the runtime's own
/// pool would keep the process from ending.
async fn input_end() {
    let (ended, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    let _ = wait.await;
}

/// Echo servers in the namespace of the thread that starts them; they end when this is dropped.
#[derive(Debug)]
pub struct Servers {
    tasks: JoinSet<()>,
}

impl Servers {
    /// Opens one TCP and one UDP server per address and serves them on the current runtime.
    pub fn start(name: &str, addresses: &[SocketAddr]) -> Result<Servers> {
        let mut tasks = JoinSet::new();
        for address in addresses {
            let listener = tcp::listen(*address).with_context(|| format!("TCP listener on {address}"))?;
            tasks.spawn(tcp::serve(name.to_owned(), listener));
            let socket = udp::bind(*address).with_context(|| format!("UDP socket on {address}"))?;
            tasks.spawn(udp::serve(name.to_owned(), socket));
        }
        Ok(Servers { tasks })
    }

    /// Opens a raw server for each protocol and each family of the addresses. It serves every address of the namespace;
    /// of SCTP the ports of the addresses.
    pub fn add_raw(&mut self, name: &str, addresses: &[SocketAddr]) -> Result<()> {
        let families: BTreeSet<Family> = addresses.iter().map(|address| Family::of(address.ip())).collect();
        let ports: Vec<u16> = addresses.iter().map(SocketAddr::port).collect();
        for (family, protocol) in families.into_iter().flat_map(|f| Protocol::RAW.map(|protocol| (f, protocol))) {
            let server = RawServer::open(name, protocol, family, &ports);
            self.tasks.spawn(server.with_context(|| format!("raw server of {protocol}, {family:?}"))?.serve());
        }
        Ok(())
    }
}

/// The options that every server socket has: bindable before the address exists, and IPv6 only IPv6.
fn prepare<F: std::os::fd::AsFd>(socket: &F, address: SocketAddr) -> nix::Result<()> {
    setsockopt(socket, sockopt::IpFreebind, &true)?;
    if address.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(())
}

/// One answer.
fn answer(name: &str, peer: SocketAddr, local: IpAddr, data: &[u8]) -> Vec<u8> {
    let data = String::from_utf8_lossy(data).trim_end_matches(['\r', '\n']).to_uppercase();
    format!("{name} {peer} {local} {data}\n").into_bytes()
}
