//! A kernel in memory: takes steps, refuses what the real one refuses, and shows what it holds as an [`Observed`].

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Family;
use crate::model::second_chance::Version;
use crate::plan::filter::ObservedFilter;
use crate::plan::nft::{Elements, NftAction, NftOp, ObservedChain, ObservedSet, ObservedTable, TableFamily, TableName};
use crate::plan::observed::{ObservedLink, ObservedNeighbour, ObservedNexthop, ObservedRoute, ObservedRule};
use crate::plan::step::RouteWrite;

use super::support::both;
use crate::plan::{Address, NFT_TABLE, Observed, PAUSED_TABLE, Plan, RuleAction, Source, Step, Sysctl};

type References = BTreeMap<String, BTreeSet<String>>;

/// One namespace.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FakeKernel {
    pub observed: Observed,
    /// What the rules of each chain refer to, by family: `@set`, `goto chain`, `jump chain`.
    references: BTreeMap<TableFamily, References>,
}

impl FakeKernel {
    /// A namespace with `lo` and one device with an address of each family, `rp_filter=1`, and MPLS loaded.
    pub fn new(device: &str, address: &str) -> Self {
        let mut kernel = FakeKernel::default();
        kernel.device("lo", true, 65536);
        kernel.device(device, false, 1500);
        for address in both(address.parse().unwrap()).iter() {
            let length = if address.is_ipv4() { 24 } else { 64 };
            kernel.observed.addresses.push((Address { dev: device.to_owned(), address }, length, false));
        }
        kernel.observed.sysctls.insert(Sysctl::PlatformLabels, 0);
        kernel
    }

    pub fn device(&mut self, name: &str, loopback: bool, mtu: u32) {
        let index = u32::try_from(self.observed.links.len()).unwrap() + 1;
        let link = ObservedLink { index, kind: None, kind_name: None, up: true, carrier: true, mtu, loopback };
        self.observed.links.insert(name.to_owned(), link);
        self.sysctls_of(name);
    }

    fn sysctls_of(&mut self, dev: &str) {
        let dev = dev.to_owned();
        self.observed.sysctls.insert(Sysctl::RpFilter(dev.clone()), 1);
        self.observed.sysctls.insert(Sysctl::ArpIgnore(dev.clone()), 0);
        self.observed.sysctls.insert(Sysctl::ArpAnnounce(dev.clone()), 0);
        self.observed.sysctls.insert(Sysctl::MplsInput(dev.clone()), 0);
        // As container runtimes leave it in pods that have no IPv6 address.
        self.observed.sysctls.insert(Sysctl::DisableIpv6(dev), 1);
    }

    /// Carries out the first `limit` steps.
    pub fn apply(&mut self, plan: &Plan, limit: usize) {
        for step in plan.steps.iter().take(limit) {
            self.step(step);
        }
    }

    fn step(&mut self, step: &Step) {
        let o = &mut self.observed;
        match step {
            Step::SetSysctl(key, value) => {
                assert!(o.sysctls.insert(key.clone(), *value).is_some(), "no such sysctl: {key}");
            }
            Step::AddLink(name, kind) => {
                assert!(!o.links.contains_key(name), "link exists: {name}");
                let taken = o.links.values().any(|link| link.kind.as_ref() == Some(kind));
                assert!(!taken, "there can be only one {kind}");
                self.device(name, false, 1476);
                let link = self.observed.links.get_mut(name).unwrap();
                (link.kind, link.up) = (Some(kind.clone()), false);
            }
            Step::LinkUp(name) => o.links.get_mut(name).expect("link exists").up = true,
            Step::DelLink(name) => self.delete_link(name),
            Step::AttachFilter { dev, program } => {
                assert!(o.links.contains_key(dev), "no device {dev}");
                let version = Some(Version::of(b"fake"));
                o.filters.insert(dev.clone(), ObservedFilter { program: *program, version });
            }
            Step::DetachFilter(dev) => assert!(o.filters.remove(dev).is_some(), "no filter on {dev}"),
            Step::AddAddress(a) => {
                assert!(o.links.contains_key(&a.dev), "no device {}", a.dev);
                let disabled = o.sysctls.get(&Sysctl::DisableIpv6(a.dev.clone())) == Some(&1);
                assert!(a.address.is_ipv4() || !disabled, "IPv6 is switched off on {}", a.dev);
                o.addresses.push((a.clone(), Family::of(a.address).bits(), true));
            }
            Step::DelAddress(a) => o.addresses.retain(|(b, _, ours)| a != b || !ours),
            Step::AddNeighbour(n) => {
                assert!(o.links.get(&n.dev).is_some_and(|l| l.up), "device {} is down", n.dev);
                o.neighbours.entry(n.clone()).or_insert(ObservedNeighbour { mac: None, ours: true }).ours = true;
            }
            Step::DelNeighbour(n) => assert!(o.neighbours.remove(n).is_some(), "no neighbour {n}"),
            Step::ReplaceNexthop(id, nh) => {
                assert!(o.links.get(nh.dev()).is_some_and(|l| l.carrier), "device {} is down", nh.dev());
                assert!(o.nexthops.get(id).is_none_or(|old| old.ours), "nexthop {id} is not ours");
                o.nexthops.insert(*id, ObservedNexthop { spec: Some(nh.clone()), source: None, ours: true });
            }
            Step::ReplaceSource(id, source) => {
                match source {
                    Source::Device(dev) => assert!(o.links.get(dev).is_some_and(|l| l.carrier), "device {dev} is down"),
                    Source::Group(ids) => {
                        let there =
                            |id| o.nexthops.get(id).is_some_and(|nh| matches!(nh.source, Some(Source::Device(_))));
                        assert!(!ids.is_empty() && ids.iter().all(there), "no such members: {ids:?}");
                    }
                }
                assert!(o.nexthops.get(id).is_none_or(|old| old.ours), "nexthop {id} is not ours");
                o.nexthops.insert(*id, ObservedNexthop { spec: None, source: Some(source.clone()), ours: true });
            }
            Step::DelNexthop(id) => {
                let used = o.routes.values().any(|r| matches!(r, ObservedRoute::Nhid { id: i, .. } if i == id));
                assert!(!used, "nexthop {id} is in use: its routes would vanish");
                remove_nexthops(o, |other, _| other == id);
            }
            Step::ReplaceRoute(key, RouteWrite::Unreachable) => {
                o.routes.insert(*key, ObservedRoute::Unreachable);
            }
            Step::ReplaceRoute(key, RouteWrite::Nhid { id, mtu }) => {
                assert!(o.nexthops.contains_key(id), "no nexthop {id}");
                o.routes.insert(*key, ObservedRoute::Nhid { id: *id, mtu: Some(*mtu) });
            }
            Step::ReplaceRoute(key, RouteWrite::Group(id)) => {
                assert!(o.nexthops.contains_key(id), "no nexthop {id}");
                o.routes.insert(*key, ObservedRoute::Nhid { id: *id, mtu: None });
            }
            Step::DelRoute(key) => assert!(o.routes.remove(key).is_some(), "no route {key}"),
            Step::ReplaceLabel(label, route) => {
                let size = o.sysctls[&Sysctl::PlatformLabels];
                assert!(*label < size, "label {label} beyond platform_labels {size}");
                o.labels.insert(*label, Some(route.clone()));
            }
            Step::DelLabel(label) => assert!(o.labels.remove(label).is_some(), "no label {label}"),
            Step::AddRule(spec) => {
                if let RuleAction::Goto(to) = spec.action {
                    assert!(to > spec.priority, "goto must lead forward");
                }
                let rule = ObservedRule { spec: Some(*spec), priority: spec.priority, mark: spec.mark, ours: true };
                assert!(!o.rules.contains(&rule), "rule exists: {spec}");
                o.rules.push(rule);
            }
            Step::DelRule(spec) => {
                let before = o.rules.len();
                o.rules.retain(|r| !(r.ours && r.spec == Some(*spec)));
                assert_eq!(before, o.rules.len() + 1, "no rule {spec}");
            }
            Step::Nft(ops) => ops.iter().for_each(|op| nft(o, &mut self.references, op)),
            Step::NftText(text) => panic!("nobody plans text: {text}"),
        }
        self.observed.rules.sort_by_key(|r| (r.priority, r.spec));
        self.observed.addresses.sort();
    }

    fn delete_link(&mut self, name: &str) {
        let o = &mut self.observed;
        assert!(o.links.remove(name).is_some(), "no link {name}");
        o.filters.remove(name);
        o.addresses.retain(|(a, _, _)| a.dev != name);
        o.sysctls.retain(|k, _| k.dev() != Some(name));
        remove_nexthops_of(o, name);
    }

    /// What is plugged in, or is not.
    pub fn carrier(&mut self, device: &str, carrier: bool) {
        self.observed.links.get_mut(device).unwrap().carrier = carrier;
        if !carrier {
            remove_nexthops_of(&mut self.observed, device);
        }
    }
}

fn remove_nexthops_of(o: &mut Observed, device: &str) {
    remove_nexthops(o, |_, nh| {
        let source = nh.source == Some(Source::Device(device.to_owned()));
        source || nh.spec.as_ref().is_some_and(|spec| spec.dev() == device)
    });
}

/// Groups lose their members, and go with the last one; routes go with their object.
fn remove_nexthops(o: &mut Observed, goes: impl Fn(&u32, &ObservedNexthop) -> bool) {
    o.nexthops.retain(|id, nh| !goes(id, nh));
    let there: BTreeSet<u32> = o.nexthops.keys().copied().collect();
    for nexthop in o.nexthops.values_mut() {
        if let Some(Source::Group(ids)) = &mut nexthop.source {
            ids.retain(|id| there.contains(id));
        }
    }
    o.nexthops.retain(|_, nh| !matches!(&nh.source, Some(Source::Group(ids)) if ids.is_empty()));
    let ids: BTreeSet<u32> = o.nexthops.keys().copied().collect();
    o.routes.retain(|_, r| !matches!(r, ObservedRoute::Nhid { id, .. } if !ids.contains(id)));
}

fn nft(observed: &mut Observed, references: &mut BTreeMap<TableFamily, References>, op: &NftOp) {
    let TableName { family, name } = op.table;
    if name == PAUSED_TABLE {
        observed.paused = op.action != NftAction::DeleteTable;
        return;
    }
    assert_eq!(name, NFT_TABLE, "not our table: {op}");
    let of_family = references.entry(family).or_default();
    let table = &mut match family {
        TableFamily::Inet => observed.nft.take(),
        other => observed.frames.remove(&other),
    };
    match &op.action {
        NftAction::AddTable => *table = Some(table.take().unwrap_or_default()),
        NftAction::DeleteTable => {
            assert!(table.take().is_some(), "no table");
            of_family.clear();
        }
        action => {
            refer(of_family, op);
            nft_object(table.as_mut().expect("table exists"), action);
        }
    }
    match family {
        TableFamily::Inet => observed.nft = table.take(),
        other => observed.frames.extend(table.take().map(|table| (other, table))),
    }
    references.retain(|_, chains| !chains.is_empty());
}

/// Refuses what the kernel refuses with EBUSY or ENOENT.
fn refer(references: &mut References, op: &NftOp) {
    match &op.action {
        NftAction::AddRule { chain, rule } => {
            let words: Vec<&str> = rule.text.split_whitespace().collect();
            let jumps = words.windows(2).filter(|w| ["goto", "jump"].contains(&w[0])).map(|w| w[1].to_owned());
            let limits = words.windows(3).filter(|w| w[..2] == ["timeout", "set"]).map(|w| w[2].replace('"', ""));
            let sets = words.iter().filter_map(|w| w.strip_prefix('@')).filter(|w| !w.contains(','));
            references.entry(chain.clone()).or_default().extend(jumps.chain(limits).chain(sets.map(str::to_owned)));
        }
        NftAction::FlushChain(name) => drop(references.remove(name)),
        NftAction::DeleteChain(name) | NftAction::DeleteSet { name, .. } | NftAction::DeleteTimeout(name) => {
            let user = references.iter().find(|(_, used)| used.contains(name));
            assert!(user.is_none(), "{op}: chain {user:?} still refers to it");
        }
        _ => {}
    }
}

fn nft_object(table: &mut ObservedTable, action: &NftAction) {
    match action {
        NftAction::AddTable | NftAction::DeleteTable => {}
        NftAction::AddSet { name, kind, counted, .. } => {
            let (kind, counted) = (kind.as_str().to_owned(), *counted);
            table.sets.entry(name.clone()).or_insert(ObservedSet { kind, counted, ..ObservedSet::default() });
        }
        NftAction::AddTimeout(timeout) => assert!(table.timeouts.insert(timeout.name())),
        NftAction::DeleteTimeout(name) => assert!(table.timeouts.remove(name)),
        NftAction::DeleteSet { name, .. } => assert!(table.sets.remove(name).is_some()),
        NftAction::AddElements(change) => of_type(table, change).elements.extend(change.elements.iter().cloned()),
        NftAction::DeleteElements(change) => {
            let set = of_type(table, change);
            for element in &change.elements {
                let before = set.elements.len();
                set.elements.retain(|e| e != element && !e.starts_with(&format!("{element} : ")));
                assert_eq!(before, set.elements.len() + 1, "no element {element} in {}", change.set);
            }
        }
        NftAction::AddChain { name, base } => {
            let base = base.as_ref().map(|base| (base.kind.to_owned(), base.hook.to_owned(), base.priority));
            table.chains.insert(name.clone(), ObservedChain { base, ..ObservedChain::default() });
        }
        NftAction::FlushChain(name) => table.chains.get_mut(name).expect("chain exists").comments.clear(),
        NftAction::DeleteChain(name) => {
            assert!(table.chains.remove(name).expect("chain exists").comments.is_empty());
        }
        NftAction::AddRule { chain, rule } => {
            let limit = rule.text.split_once("timeout set \"").and_then(|(_, rest)| rest.split('"').next());
            assert!(limit.is_none_or(|limit| table.timeouts.contains(limit)), "no time limit {limit:?}");
            let comment = rule.comment();
            assert!(comment.len() <= 127, "nft takes 127 bytes: {comment}");
            table.chains.get_mut(chain).expect("chain exists").comments.push(comment);
        }
    }
}

fn of_type<'a>(table: &'a mut ObservedTable, change: &Elements) -> &'a mut ObservedSet {
    let set = table.sets.get_mut(&change.set).expect("set exists");
    assert_eq!(set.kind, change.kind.as_str(), "{change}");
    set
}
