//! The filter that holds the program on a device: `cls_bpf` on ingress of `clsact`.
//!
//! Everything here concerns the network namespace of the calling thread.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;

use super::error::BpfError;
use super::program::Program;
use crate::kernel::error::KernelError;
use crate::kernel::netlink::{Netlink, failed};
use crate::kernel::wire::{Request, append, attribute, rtm, text, u32_at};
use crate::model::second_chance::Version;
use crate::plan::filter::{HANDLE, ObservedFilter, PREFERENCE};
use crate::plan::observed::ObservedLink;

// include/uapi/linux/rtnetlink.h
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
// include/uapi/linux/pkt_cls.h
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
// include/uapi/linux/pkt_sched.h
const CLSACT_HANDLE: u32 = 0xffff_0000;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const TC_H_INGRESS: u32 = 0xffff_fff2;
const ETH_P_ALL: u16 = 3;
/// `struct tcmsg`
const TCMSG: usize = 20;

/// Attaches the program to ingress of a device; a program that is attached already is replaced atomically.
///
/// # Errors
/// [`BpfError::Filter`], in particular where there is no such device or a filter of another kind has our preference.
pub fn attach(dev: &str, program: &Program) -> Result<(), BpfError> {
    put(dev, program).map_err(BpfError::filter(dev))
}

/// The same, for a plan.
pub(in crate::kernel) fn put(dev: &str, program: &Program) -> Result<(), KernelError> {
    let index = index_of(dev)?;
    let requests = [add_clsact(index), replace(index, program)];
    let answers = Netlink::route()?.batch(&requests)?;
    answers.into_iter().find(|answer| answer.as_ref().is_err_and(|error| !error.is_exists())).unwrap_or(Ok(()))
}

/// The filter of a device, with our preference and handle; `None` if there is none.
///
/// # Errors
/// [`BpfError::Filter`], in particular where there is no such device.
pub fn observe_filter(dev: &str) -> Result<Option<ObservedFilter>, BpfError> {
    let observe = || of_device(&mut Netlink::route()?, index_of(dev)?);
    observe().map_err(BpfError::filter(dev))
}

/// The same of all links of ours.
pub(in crate::kernel) fn dump(
    netlink: &mut Netlink,
    links: &BTreeMap<String, ObservedLink>,
    link_prefix: &str,
) -> Result<BTreeMap<String, ObservedFilter>, KernelError> {
    let mut found = BTreeMap::new();
    for (dev, link) in links.iter().filter(|(dev, link)| dev.starts_with(link_prefix) && link.kind.is_some()) {
        found.extend(of_device(netlink, link.index)?.map(|filter| (dev.clone(), filter)));
    }
    Ok(found)
}

/// Without a device, or without `clsact` on it, the kernel lists nothing (`tc_dump_tfilter`, net/sched/cls_api.c).
fn of_device(netlink: &mut Netlink, index: u32) -> Result<Option<ObservedFilter>, KernelError> {
    let request = Request { kind: rtm::GETTFILTER, flags: 0, payload: tcmsg(index, 0, TC_H_INGRESS, 0) };
    netlink.dump("filters", &request, |found: &mut Option<ObservedFilter>, kind, payload| {
        if kind == rtm::NEWTFILTER {
            *found = found.take().or_else(|| decode(payload));
        }
    })
}

/// The index of the device that a notification about a filter or a `clsact` is about.
pub(in crate::kernel) fn announced_index(payload: &[u8]) -> Option<u32> {
    u32_at(payload, 4)
}

/// Takes the filter and its `clsact` from a device of ours. What is gone already is not an error.
///
/// # Errors
/// [`BpfError::Filter`]
pub fn detach(dev: &str) -> Result<(), BpfError> {
    take(dev).map_err(BpfError::filter(dev))
}

/// The same, for a plan.
pub(in crate::kernel) fn take(dev: &str) -> Result<(), KernelError> {
    let index = match index_of(dev) {
        Err(error) if error.is_not_found() => return Ok(()),
        other => other?,
    };
    match Netlink::route()?.request(&del_clsact(index)) {
        // The kernel says EINVAL to the removal of a clsact that is not there (net/sched/sch_api.c, tc_get_qdisc).
        Err(error) if !error.is_not_found() && error.errno() != Some(Errno::EINVAL) => Err(error),
        _ => Ok(()),
    }
}

fn index_of(dev: &str) -> Result<u32, KernelError> {
    nix::net::if_::if_nametoindex(dev).map_err(|errno| match errno {
        Errno::ENODEV => KernelError::NoDevice(dev.to_owned()),
        other => failed("look a device up")(other.into()),
    })
}

/// `tc qdisc add dev #INDEX clsact`
fn add_clsact(index: u32) -> Request {
    let mut payload = tcmsg(index, CLSACT_HANDLE, TC_H_CLSACT, 0);
    append(&mut payload, TCA_KIND, b"clsact\0");
    Request { kind: rtm::NEWQDISC, flags: NLM_F_CREATE | NLM_F_EXCL, payload }
}

/// `tc qdisc del dev #INDEX clsact`
fn del_clsact(index: u32) -> Request {
    Request { kind: rtm::DELQDISC, flags: 0, payload: tcmsg(index, CLSACT_HANDLE, TC_H_CLSACT, 0) }
}

/// `tc filter replace dev #INDEX ingress pref 1 handle 1 bpf direct-action …`
fn replace(index: u32, program: &Program) -> Request {
    let mut options = Vec::new();
    append(&mut options, TCA_BPF_FD, &program.fd().as_raw_fd().to_ne_bytes());
    append(&mut options, TCA_BPF_NAME, format!("{}\0", program.version()).as_bytes());
    append(&mut options, TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
    let mut payload = tcmsg(index, HANDLE, TC_H_INGRESS, info());
    append(&mut payload, TCA_KIND, b"bpf\0");
    append(&mut payload, TCA_OPTIONS, &options);
    Request { kind: rtm::NEWTFILTER, flags: NLM_F_CREATE, payload }
}

/// Preference and protocol of our filter.
fn info() -> u32 {
    u32::from(PREFERENCE) << 16 | u32::from(ETH_P_ALL.to_be())
}

fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut message = vec![0; 4];
    for field in [index, handle, parent, info] {
        message.extend(field.to_ne_bytes());
    }
    message
}

pub(in crate::kernel) fn decode(payload: &[u8]) -> Option<ObservedFilter> {
    let is_ours = u32_at(payload, 8) == Some(HANDLE) && u32_at(payload, 16) == Some(info());
    let options = attribute(payload, TCMSG, TCA_OPTIONS).filter(|_| is_ours)?;
    // Without direct action the program's answer would be a class.
    let direct = attribute(options, 0, TCA_BPF_FLAGS).and_then(|v| u32_at(v, 0))? & TCA_BPF_FLAG_ACT_DIRECT != 0;
    let name = attribute(options, 0, TCA_BPF_NAME).map(text).unwrap_or_default();
    Some(ObservedFilter {
        program: attribute(options, 0, TCA_BPF_ID).and_then(|v| u32_at(v, 0))?,
        version: Version::of_filter(&name).filter(|_| direct),
    })
}
