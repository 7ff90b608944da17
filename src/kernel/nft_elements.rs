//! Elements of sets by netlink: what changes with every pod should not have to start `nft`.
//!
//! Only for sets that are there, of addresses. An element that is added to a set that counts begins to count
//! (`nft_set_elem_expr_clone`, net/netfilter/nf_tables_api.c).

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;

use crate::plan::NFT_TABLE;

use super::error::KernelError;
use super::netlink::Netlink;
use super::wire::Request;

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM`
const NEWSETELEM: u16 = 10 << 8 | 12;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELSETELEM`
const DELSETELEM: u16 = 10 << 8 | 14;
/// `NLM_F_CREATE`
const CREATE: u16 = 0x400;
/// `struct nfgenmsg` of family inet.
const INET: [u8; 4] = [1, 0, 0, 0];
/// Elements of one message: an attribute holds less than 64 KiB.
const AT_ONCE: usize = 1000;

/// Adds addresses to a set of our table; those that are there stay.
///
/// # Errors
/// The kernel's errno, or a failure of the socket. Then none is added.
pub(super) fn add(netlink: &mut Netlink, set: &str, addresses: &BTreeSet<IpAddr>) -> Result<(), KernelError> {
    netlink.transaction(&requests(NEWSETELEM, set, addresses))
}

/// Takes addresses from a set of our table, and is content if some are not there.
///
/// # Errors
/// The kernel's errno, or a failure of the socket.
pub(super) fn delete(netlink: &mut Netlink, set: &str, addresses: &BTreeSet<IpAddr>) -> Result<(), KernelError> {
    match netlink.transaction(&requests(DELSETELEM, set, addresses)) {
        Err(error) if error.errno() == Some(Errno::ENOENT) => {}
        done => return done,
    }
    // One that is not there has kept the others.
    for address in addresses {
        match netlink.transaction(&requests(DELSETELEM, set, &[*address].into())) {
            Err(error) if error.errno() != Some(Errno::ENOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// `enum nft_set_elem_list_attributes` and those in it (include/uapi/linux/netfilter/nf_tables.h).
fn requests(kind: u16, set: &str, addresses: &BTreeSet<IpAddr>) -> Vec<Request> {
    const TABLE: u16 = 1;
    const SET: u16 = 2;
    const ELEMENTS: u16 = 3;
    const ELEMENT: u16 = 1;
    const KEY: u16 = 1;
    const VALUE: u16 = 1;
    let element = |address: &IpAddr| match address {
        IpAddr::V4(v4) => nest(ELEMENT, &nest(KEY, &plain(VALUE, &v4.octets()))),
        IpAddr::V6(v6) => nest(ELEMENT, &nest(KEY, &plain(VALUE, &v6.octets()))),
    };
    let named = |name: &str| [name.as_bytes(), &[0]].concat();
    let addresses: Vec<&IpAddr> = addresses.iter().collect();
    let request = |some: &[&IpAddr]| {
        let elements: Vec<u8> = some.iter().flat_map(|address| element(address)).collect();
        let parts = [&INET[..], &plain(TABLE, &named(NFT_TABLE)), &plain(SET, &named(set)), &nest(ELEMENTS, &elements)];
        Request { kind, flags: if kind == NEWSETELEM { CREATE } else { 0 }, payload: parts.concat() }
    };
    addresses.chunks(AT_ONCE).map(request).collect()
}

/// An attribute, padded.
fn plain(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute of attributes: `NLA_F_NESTED`.
fn nest(kind: u16, attributes: &[u8]) -> Vec<u8> {
    plain(kind | 0x8000, attributes)
}
