//! What netlink says of the ruleset without the `nft` program, whose start is the slowest part of a look: its generation, and which tables
//! and chains there are. Never rules or sets: their form is the program's.

use crate::plan::nft::TableFamily;

use super::error::KernelError;
use super::netlink::Netlink;
use super::wire::{NFTABLES, Request, attribute, be32, text, u8_at};

/// Begins the types of messages.
const SUBSYSTEM: u16 = NFTABLES << 8;
/// `struct nfgenmsg`
const NFGENMSG: usize = 4;

/// `enum nf_inet_hooks`' families (include/uapi/linux/netfilter.h).
pub(super) fn family_of(number: u8) -> Option<TableFamily> {
    match number {
        1 => Some(TableFamily::Inet),
        2 => Some(TableFamily::Ip),
        5 => Some(TableFamily::Netdev),
        7 => Some(TableFamily::Bridge),
        10 => Some(TableFamily::Ip6),
        _ => None,
    }
}

/// The tables that there are in families of ours, by name: starting `nft` to be told that there is none is dear.
pub(super) fn existing() -> Result<Vec<(TableFamily, String)>, KernelError> {
    const GETTABLE: u16 = SUBSYSTEM | 1;
    const NAME: u16 = 1;
    let request = Request { kind: GETTABLE, flags: 0, payload: vec![0; NFGENMSG] };
    Netlink::netfilter()?.dump("nft tables", &request, |tables: &mut Vec<_>, _, payload| {
        let name = attribute(payload, NFGENMSG, NAME).map(text);
        tables.extend(u8_at(payload, 0).and_then(family_of).zip(name));
    })
}

/// How many transactions this namespace's ruleset has seen, by whomever.
///
/// # Errors
/// The kernel's errno, or a failure of the socket.
pub fn generation() -> Result<u32, KernelError> {
    const GETGEN: u16 = SUBSYSTEM | 16;
    const ID: u16 = 1;
    let request = Request { kind: GETGEN, flags: 0, payload: vec![0; NFGENMSG] };
    let mut answer = Err(KernelError::Malformed("no generation of the nft ruleset".to_owned()));
    Netlink::netfilter()?.ask(&[request], |_, payload| match payload {
        Err(error) => answer = Err(error),
        Ok(payload) => {
            let id = attribute(payload, NFGENMSG, ID).and_then(|id| id.try_into().ok());
            if let Some(id) = id {
                answer = Ok(u32::from_be_bytes(id));
            }
        }
    })?;
    answer
}

/// A chain that packets enter by a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BaseChain {
    /// Family of its table, as `nft` spells it.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// `prerouting`, `forward`, …
    pub hook: &'static str,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// Its policy is `drop`.
    pub drops: bool,
}

/// All base chains of all tables in the namespace of the calling thread.
///
/// # Errors
/// The kernel's errno, or a failure of the socket.
pub(super) fn base_chains() -> Result<Vec<BaseChain>, KernelError> {
    const GETCHAIN: u16 = SUBSYSTEM | 4;
    let request = Request { kind: GETCHAIN, flags: 0, payload: vec![0; NFGENMSG] };
    Netlink::netfilter()?.dump("nft chains", &request, |chains: &mut Vec<_>, _, payload| {
        chains.extend(base_chain(payload));
    })
}

/// `enum nft_chain_attributes` and `enum nft_hook_attributes` (include/uapi/linux/netfilter/nf_tables.h).
fn base_chain(payload: &[u8]) -> Option<BaseChain> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const TYPE: u16 = 7;
    const NUMBER: u16 = 1;
    const DROP: u32 = 0;
    let own = |kind| attribute(payload, NFGENMSG, kind);
    let (family, hooks) = hooks_of(u8_at(payload, 0)?)?;
    let number = attribute(own(HOOK)?, 0, NUMBER).and_then(be32)?;
    Some(BaseChain {
        family,
        table: own(TABLE).map(text)?,
        name: own(NAME).map(text)?,
        hook: usize::try_from(number).ok().and_then(|number| hooks.get(number)).copied().unwrap_or_default(),
        kind: own(TYPE).map(text).unwrap_or_default(),
        drops: own(POLICY).and_then(be32) == Some(DROP),
    })
}

/// `NFPROTO_*` by the name that `nft` has for it, and its hooks by number (`enum nf_inet_hooks`, `nf_dev_hooks`, `NF_ARP_*`, `NF_BR_*`).
fn hooks_of(family: u8) -> Option<(&'static str, &'static [&'static str])> {
    const INET: &[&str] = &["prerouting", "input", "forward", "output", "postrouting", "ingress"];
    match family {
        1 => Some(("inet", INET)),
        2 => Some(("ip", INET)),
        3 => Some(("arp", &["input", "output", "forward"])),
        5 => Some(("netdev", &["ingress", "egress"])),
        7 => Some(("bridge", INET)),
        10 => Some(("ip6", INET)),
        _ => None,
    }
}
