//! Elements of sets by netlink: what changes with every pod should not have to start `nft`.
//!
//! Only for sets that are there, of addresses, or of addresses and marks, and for maps to addresses. An element that is added to a set that
//! counts begins to count (`nft_set_elem_expr_clone`, net/netfilter/nf_tables_api.c).

use std::collections::BTreeMap;

use netlink_packet_core::{NLA_F_NESTED, NLM_F_CREATE};

use crate::model::Family;
use crate::plan::nft::{Elements, NftOp, SetType, TableFamily};

use super::wire::{HEADER, NFTABLES, Request, append, octets};

/// `NFT_MSG_NEWSETELEM`
const NEWSETELEM: u16 = NFTABLES << 8 | 12;
/// `NFT_MSG_DELSETELEM`
const DELSETELEM: u16 = NFTABLES << 8 | 14;
/// `struct nfgenmsg` of family inet.
const INET: [u8; 4] = [1, 0, 0, 0];
/// Elements of one message: an attribute holds less than 64 KiB.
const AT_ONCE: usize = 1000;

/// The requests of one transaction that does the same as these commands; `None` if it takes nft.
pub(super) fn requests(ops: &[NftOp]) -> Option<Vec<Request>> {
    let of = |op: &NftOp| {
        let (is_added, elements) = op.elements().filter(|_| op.table.family == TableFamily::Inet)?;
        of_elements(if is_added { NEWSETELEM } else { DELSETELEM }, op.table.name, elements)
    };
    Some(ops.iter().map(of).collect::<Option<Vec<_>>>()?.concat())
}

/// The bytes of a transaction, with its bounds.
pub(super) fn size(requests: &[Request]) -> usize {
    const BOUNDS: usize = 2 * (HEADER + INET.len());
    BOUNDS + requests.iter().map(|request| HEADER + request.payload.len().next_multiple_of(4)).sum::<usize>()
}

/// `enum nft_set_elem_list_attributes` and those in it (include/uapi/linux/netfilter/nf_tables.h).
fn of_elements(message: u16, table: &str, Elements { set, kind, elements }: &Elements) -> Option<Vec<Request>> {
    const TABLE: u16 = 1;
    const SET: u16 = 2;
    const ELEMENTS: u16 = 3;
    const ELEMENT: u16 = 1;
    const KEY: u16 = 1;
    const DATA: u16 = 2;
    const VALUE: u16 = 1;
    let pairs = elements.iter().map(|element| pair(*kind, element)).collect::<Option<BTreeMap<_, _>>>()?;
    let value = |kind: u16, bytes: &[u8]| attribute(kind | NLA_F_NESTED, &attribute(VALUE, bytes));
    let element = |(key, data): (&Vec<u8>, &Option<Vec<u8>>)| {
        let data = data.as_deref().map(|data| value(DATA, data)).unwrap_or_default();
        attribute(ELEMENT | NLA_F_NESTED, &[value(KEY, key), data].concat())
    };
    let elements: Vec<Vec<u8>> = pairs.iter().map(element).collect();
    let named = |name: &str| [name.as_bytes(), &[0]].concat();
    let request = |some: &[Vec<u8>]| {
        let mut payload = INET.to_vec();
        append(&mut payload, TABLE, &named(table));
        append(&mut payload, SET, &named(set));
        append(&mut payload, ELEMENTS | NLA_F_NESTED, &some.concat());
        Request { kind: message, flags: if message == NEWSETELEM { NLM_F_CREATE } else { 0 }, payload }
    };
    Some(elements.chunks(AT_ONCE).map(request).collect())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, kind, value);
    bytes
}

/// The bytes of an element: those of an address, those of a mark in the order of this machine, and those of what a packet quotes as they
/// are in the packet. Behind those of a map's key, what it leads to, unless only the key is given.
fn pair(kind: SetType, element: &str) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    match kind {
        SetType::Address(family) => Some((address(family, element)?, None)),
        SetType::AddressMark(family) => {
            let (vip, mark) = element.split_once(" . ")?;
            Some(([address(family, vip)?, mark.parse::<u32>().ok()?.to_ne_bytes().into()].concat(), None))
        }
        SetType::QuotedToAddress(family) => {
            let (key, data) = match element.split_once(" : ") {
                Some((key, data)) => (key, Some(address(family, data)?)),
                None => (element, None),
            };
            Some((quoted(family, key)?, data))
        }
        SetType::Ether | SetType::Ifname | SetType::IfnameToMark => None,
    }
}

/// An address as a number, decimal or with `0x`.
fn quoted(family: Family, key: &str) -> Option<Vec<u8>> {
    let number = match key.strip_prefix("0x") {
        Some(digits) => u128::from_str_radix(digits, 16),
        None => key.parse(),
    };
    match family {
        Family::V4 => Some(u32::try_from(number.ok()?).ok()?.to_be_bytes().into()),
        Family::V6 => Some(number.ok()?.to_be_bytes().into()),
    }
}

fn address(family: Family, text: &str) -> Option<Vec<u8>> {
    text.parse().ok().filter(|address| Family::of(*address) == family).map(octets)
}
