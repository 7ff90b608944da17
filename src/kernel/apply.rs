//! Carrying a plan out, step by step, in the network namespace of the calling thread.
//!
//! The contract, in three verbs. *Add* and *replace* make it so, whatever was there. *Delete* is content when it is gone.
//! *Stop* at the first step that fails and say which: the caller reads back and plans anew.
//!
//! Steps of the same kind that follow each other are sent to the kernel together. The kernel carries out all of them even
//! if one is refused, so steps of different kinds are never in one batch: routes are not deleted when the nexthops that
//! should replace them could not be made.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::{Discriminant, discriminant};

use nix::errno::Errno;

use crate::model::Mode;
use crate::model::names::LinkPrefix;
use crate::netns::Netns;
use crate::plan::nft::NftOp;
use crate::plan::nft::op::script;
use crate::plan::{Plan, RuleSpec, Source, Step, Sysctl};

use super::bpf::Programs;
use super::error::KernelError;
use super::netlink::Netlink;
use super::wire::Request;
use super::{address, bpf, label, link, neighbour, nexthop, nft, nft_elements, remedy, route, rule, sysctl};

/// The step that failed.
#[derive(Debug)]
pub struct ApplyError {
    /// Number of steps before it, all of which were carried out.
    pub done: usize,
    /// The step.
    pub step: Box<Step>,
    /// What the kernel, or `nft`, said.
    pub source: KernelError,
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.step {
            // The script is long, and nft quotes the line that it dislikes.
            Step::Nft(ops) => write!(f, "nft -f - ({} lines): {}", ops.len(), self.source)?,
            Step::NftText(text) => write!(f, "nft -f - ({} lines): {}", text.lines().count(), self.source)?,
            // Printed, these are two commands that nobody has run.
            Step::AttachFilter { dev, .. } => write!(f, "attach the BPF program to {dev}: {}", self.source)?,
            step => write!(f, "{step}: {}", self.source)?,
        }
        self.remedy().map_or(Ok(()), |remedy| write!(f, " ({remedy})"))
    }
}

impl std::error::Error for ApplyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl ApplyError {
    /// Whether it is the program for second chances that could not be attached: the rest of the plan does not need it.
    pub fn is_attachment(&self) -> bool {
        matches!(*self.step, Step::AttachFilter { .. })
    }

    /// The mode that cannot be had here, if it is one of its devices or tables that failed.
    pub fn mode(&self, link_prefix: &LinkPrefix) -> Option<Mode> {
        let of_device = |name: &str| match name == link_prefix.vxlan() {
            true => Some(Mode::Vxlan),
            false => link_prefix.is_of(name).then_some(Mode::Gre),
        };
        match &*self.step {
            Step::ReplaceLabel(..) | Step::SetSysctl(Sysctl::PlatformLabels | Sysctl::MplsInput(_), _) => {
                Some(Mode::Mpls)
            }
            // The next round may well succeed.
            _ if self.source.is_transient() => None,
            Step::AddLink(name, _) | Step::LinkUp(name) => of_device(name),
            Step::SetSysctl(key, _) => key.dev().and_then(of_device),
            Step::AddAddress(address) => of_device(&address.dev),
            _ => None,
        }
    }

    /// What the user can do about it, if that is known: the module to load, the privilege to give.
    pub fn remedy(&self) -> Option<&'static str> {
        remedy::remedy(&self.step, &self.source)
    }
}

/// Applies a plan and returns the number of its steps.
///
/// # Errors
/// [`ApplyError`] names the first step that failed. Later steps of other kinds were not tried; later steps of the same kind
/// may have been carried out.
pub fn apply(plan: &Plan) -> Result<usize, ApplyError> {
    apply_with(plan, &Programs::default())
}

/// Applies a plan that may attach programs, which must be among these.
///
/// # Errors
/// As [`apply`].
pub fn apply_with(plan: &Plan, programs: &Programs) -> Result<usize, ApplyError> {
    run_all(plan, programs, &mut Sockets::default())
}

/// Opened when first needed: a plan of nothing but sysctls needs none.
#[derive(Default)]
struct Sockets {
    route: Option<Netlink>,
    netfilter: Option<Netlink>,
}

impl Sockets {
    fn route(&mut self) -> Result<&mut Netlink, KernelError> {
        opened(&mut self.route, Netlink::route)
    }

    fn netfilter(&mut self) -> Result<&mut Netlink, KernelError> {
        opened(&mut self.netfilter, Netlink::netfilter)
    }
}

fn opened(
    socket: &mut Option<Netlink>,
    open: impl Fn() -> Result<Netlink, KernelError>,
) -> Result<&mut Netlink, KernelError> {
    match socket {
        Some(netlink) => Ok(netlink),
        None => Ok(socket.insert(open()?)),
    }
}

/// What the kernel calls sockets, by which it says who has changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The one of rtnetlink.
    pub route: u32,
    /// The one of nfnetlink.
    pub netfilter: u32,
}

/// Writes routes, nexthops and elements of sets in one namespace by sockets that stay open: the kernel names them in what it tells of these
/// changes.
pub struct Writer {
    sockets: Sockets,
    ports: Ports,
}

impl Writer {
    /// Opens sockets in the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or a socket cannot be opened there.
    pub fn open_in(netns: &Netns) -> Result<Writer, KernelError> {
        let (route, netfilter) = netns.run(|| Ok::<_, KernelError>((Netlink::route()?, Netlink::netfilter()?)))??;
        let ports = Ports { route: route.port()?, netfilter: netfilter.port()? };
        Ok(Writer { sockets: Sockets { route: Some(route), netfilter: Some(netfilter) }, ports })
    }

    /// What the kernel calls the sockets.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Applies a plan in the network namespace of the calling thread, which must be that of the sockets.
    ///
    /// # Errors
    /// As [`apply`].
    pub fn apply(&mut self, plan: &Plan) -> Result<usize, ApplyError> {
        run_all(plan, &Programs::default(), &mut self.sockets)
    }
}

fn run_all(plan: &Plan, programs: &Programs, sockets: &mut Sockets) -> Result<usize, ApplyError> {
    let mut done = 0;
    for run in plan.steps.chunk_by(|a, b| kind(a) == kind(b)) {
        let outcome = match run {
            [
                Step::Nft(_)
                | Step::NftText(_)
                | Step::SetSysctl(..)
                | Step::AttachFilter { .. }
                | Step::DetachFilter(_),
                ..,
            ] => one_by_one(run, programs, sockets),
            _ => batch(run, sockets),
        };
        outcome.map_err(|(index, source)| ApplyError {
            done: done + index,
            step: Box::new(run[index].clone()),
            source,
        })?;
        done += run.len();
    }
    Ok(done)
}

fn kind(step: &Step) -> Discriminant<Step> {
    discriminant(step)
}

/// The index of a step in its run, and what went wrong with it.
type Failure = (usize, KernelError);

fn one_by_one(run: &[Step], programs: &Programs, sockets: &mut Sockets) -> Result<(), Failure> {
    run.iter().enumerate().try_for_each(|(index, step)| {
        let outcome = match step {
            Step::SetSysctl(key, value) => sysctl::write(key, *value),
            Step::Nft(ops) => transaction(ops, sockets),
            Step::NftText(text) => nft::run(text),
            Step::AttachFilter { dev, program } => attach(dev, *program, programs),
            Step::DetachFilter(dev) => bpf::take(dev),
            _ => Ok(()),
        };
        outcome.map_err(|source| (index, source))
    })
}

fn attach(dev: &str, id: u32, programs: &Programs) -> Result<(), KernelError> {
    let program = programs.get(id).ok_or(KernelError::NoProgram(id))?;
    bpf::put(dev, &program)
}

/// Without the program, which takes long to start, where that is possible.
fn transaction(ops: &[NftOp], sockets: &mut Sockets) -> Result<(), KernelError> {
    if let Some(requests) = nft_elements::requests(ops) {
        let netlink = sockets.netfilter()?;
        // nft finds room for any number of elements.
        if nft_elements::size(&requests) <= netlink.largest() {
            return netlink.transaction(&requests);
        }
    }
    nft::run(&script(ops))
}

fn batch(run: &[Step], sockets: &mut Sockets) -> Result<(), Failure> {
    let netlink = sockets.route().map_err(|source| (0, source))?;
    let mut devices = Devices::default();
    let mut requests = Vec::with_capacity(run.len());
    let mut unsendable = None;
    for (index, step) in run.iter().enumerate() {
        match request(step, &mut devices) {
            Ok(request) => requests.push((index, request)),
            // Its device is gone, and the address with it.
            Err(error) if is_deletion(step) && error.is_not_found() => {}
            Err(error) => {
                unsendable = Some((index, error));
                break;
            }
        }
    }
    let (indices, requests): (Vec<usize>, Vec<Request>) = requests.into_iter().unzip();
    let answers = netlink.batch(&requests).map_err(|source| (indices.first().copied().unwrap_or(0), source))?;
    for (index, answer) in indices.into_iter().zip(answers) {
        let settled = answer.or_else(|error| settle(&run[index], error, netlink));
        settled.map_err(|source| (index, source))?;
    }
    unsendable.map_or(Ok(()), Err)
}

fn request(step: &Step, devices: &mut Devices) -> Result<Request, KernelError> {
    Ok(match step {
        Step::AddLink(name, kind) => link::add(name, kind),
        Step::LinkUp(name) => link::up(name),
        Step::DelLink(name) => link::del(name),
        Step::AddAddress(a) => address::add(a.address, devices.index(&a.dev)?),
        Step::DelAddress(a) => address::del(a.address, devices.index(&a.dev)?),
        Step::AddNeighbour(n) => neighbour::add(n, devices.index(&n.dev)?),
        Step::DelNeighbour(n) => neighbour::del(n, devices.index(&n.dev)?),
        Step::ReplaceNexthop(id, spec) => nexthop::replace(*id, spec, devices.index(spec.dev())?),
        Step::ReplaceSource(id, Source::Device(dev)) => nexthop::replace_device(*id, devices.index(dev)?),
        Step::ReplaceSource(id, Source::Group(ids)) => nexthop::replace_group(*id, ids),
        Step::DelNexthop(id) => nexthop::del(*id),
        Step::ReplaceRoute(key, target) => route::replace(*key, target),
        Step::DelRoute(key) => route::del(*key),
        Step::ReplaceLabel(label, to) => label::replace(*label, to, devices.index(label::device(to))?),
        Step::DelLabel(label) => label::del(*label),
        Step::AddRule(spec) => rule::add(spec, true),
        Step::DelRule(spec) => rule::del(spec),
        Step::SetSysctl(..) | Step::Nft(_) | Step::NftText(_) | Step::AttachFilter { .. } | Step::DetachFilter(_) => {
            return Err(KernelError::Malformed("not a request of rtnetlink".to_owned()));
        }
    })
}

fn is_deletion(step: &Step) -> bool {
    matches!(
        step,
        Step::DelLink(_)
            | Step::DelAddress(_)
            | Step::DelNeighbour(_)
            | Step::DelNexthop(_)
            | Step::DelRoute(_)
            | Step::DelLabel(_)
            | Step::DelRule(_)
    )
}

/// Whether a refusal means that all is well.
fn settle(step: &Step, error: KernelError, netlink: &mut Netlink) -> Result<(), KernelError> {
    match step {
        _ if is_deletion(step) && error.is_not_found() => Ok(()),
        Step::AddLink(name, kind) if error.is_exists() => link::explain_exists(netlink, name, kind),
        // Its UDP port is in use, which shows when it is opened.
        Step::LinkUp(name) if error.errno() == Some(Errno::EADDRINUSE) => link::explain_in_use(netlink, name, error),
        Step::AddRule(spec) if error.is_exists() => settle_rule(spec, netlink),
        Step::DelLabel(label) if label_cannot_exist(*label, &error) => Ok(()),
        _ => Err(error),
    }
}

/// The kernel does not compare the targets of `goto` rules (`rule_exists` in net/core/fib_rules.c): it takes a rule that
/// goes elsewhere for the same one.
fn settle_rule(spec: &RuleSpec, netlink: &mut Netlink) -> Result<(), KernelError> {
    let rules = rule::dump(netlink)?;
    if rules.iter().any(|r| r.ours && r.spec.as_ref() == Some(spec)) {
        return Ok(());
    }
    netlink.request(&rule::add(spec, false))
}

/// Without the module there is no such family; beyond `platform_labels` there is no such label (`mpls_label_ok` in
/// net/mpls/af_mpls.c says `EINVAL`).
fn label_cannot_exist(label: u32, error: &KernelError) -> bool {
    let limit = || sysctl::read(&crate::plan::Sysctl::PlatformLabels).ok().flatten().unwrap_or(0);
    error.is_unsupported() || (error.errno() == Some(Errno::EINVAL) && label >= limit())
}

/// Indices of devices by name, asked for once per run: links only change between runs.
#[derive(Default)]
struct Devices(BTreeMap<String, u32>);

impl Devices {
    fn index(&mut self, name: &str) -> Result<u32, KernelError> {
        if let Some(index) = self.0.get(name) {
            return Ok(*index);
        }
        let index = nix::net::if_::if_nametoindex(name).map_err(|_| KernelError::NoDevice(name.to_owned()))?;
        self.0.insert(name.to_owned(), index);
        Ok(index)
    }
}
