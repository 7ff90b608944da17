//! What the kernel of a node does with VIPs, read back: no agent is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::report::{DrainStatus, EndpointStatus, NodeStatus, Source, VipStatus};
use crate::model::handover::{FlowHash, HashKey, Name, TunnelId};
use crate::model::{Bucket, BucketCount, Family, MarkField, Mode};
use crate::plan::nft::{ObservedTable, node, seen};
use crate::plan::observed::ObservedRoute;
use crate::plan::rule::walk;
use crate::plan::{LinkKind, Nexthop, Observed, RouteKey, RuleAction, RuleSpec};

/// A node's namespace, as read back.
#[derive(Debug)]
pub struct Seen<'a> {
    observed: &'a Observed,
    /// Our rules of each family, by priority.
    rules: BTreeMap<Family, Vec<RuleSpec>>,
    /// VIPs in the table of the routing daemon.
    announced: BTreeSet<IpAddr>,
}

/// Where a packet goes that looks into a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way<'a> {
    /// Through a nexthop object.
    Via {
        /// Its id.
        id: u32,
        /// What it says, if it is one that we make.
        nexthop: Option<&'a Nexthop>,
        /// Path MTU for the packet inside, in bytes.
        mtu: Option<u32>,
    },
    /// Nowhere: the sender is told.
    Unreachable,
    /// By a route that is not one of ours.
    Foreign,
}

impl<'a> Seen<'a> {
    /// Sorts out what was observed.
    pub fn new(observed: &'a Observed) -> Seen<'a> {
        let of = |family| {
            let ours = observed.rules.iter().filter(|rule| rule.ours).filter_map(|rule| rule.spec);
            let mut rules: Vec<RuleSpec> = ours.filter(|rule| rule.family == family).collect();
            rules.sort_by_key(|rule| rule.priority);
            (family, rules)
        };
        let announced = observed.announcements().into_iter().map(|key| key.vip).collect();
        Seen { observed, rules: Family::ALL.map(of).into(), announced }
    }

    /// Whether packets of a VIP are taken in.
    pub fn takes_in(&self, vip: IpAddr) -> bool {
        self.table().and_then(seen::taken_in).is_some_and(|vips| vips.contains(&vip))
    }

    /// How the flows of a VIP become buckets.
    pub fn flows(&self, vip: IpAddr) -> Option<FlowHash> {
        seen::flows(self.table()?, vip)
    }

    /// The field of the mark that the rules compare, if it can hold these buckets.
    pub fn mark_field(&self, family: Family, buckets: BucketCount) -> Option<MarkField> {
        let leaf = |rule: &RuleSpec| match (rule.action, rule.mark) {
            (RuleAction::Lookup(_), Some((value, mask))) if value != 0 => Some(mask),
            _ => None,
        };
        let mask = self.rules.get(&family)?.iter().find_map(leaf)?;
        MarkField::new(mask, buckets).ok()
    }

    /// The table in which a marked packet to the VIP finds its route.
    pub fn table_of(&self, vip: IpAddr, mark: u32) -> Option<u32> {
        let rules = self.rules.get(&Family::of(vip))?;
        let has_route = |table| self.observed.routes.contains_key(&RouteKey { table, vip });
        walk(rules, mark, has_route).tables.pop().filter(|table| has_route(*table))
    }

    /// Where the table sends packets to the VIP.
    pub fn way(&self, table: u32, vip: IpAddr) -> Option<Way<'a>> {
        Some(match self.observed.routes.get(&RouteKey { table, vip })? {
            ObservedRoute::Unreachable => Way::Unreachable,
            ObservedRoute::Nhid { id, mtu } => {
                let nexthop = self.observed.nexthops.get(id).and_then(|nexthop| nexthop.spec.as_ref());
                Way::Via { id: *id, nexthop, mtu: *mtu }
            }
            ObservedRoute::Other => Way::Foreign,
        })
    }

    /// The mode that a nexthop encapsulates in.
    pub fn mode(&self, nexthop: &Nexthop) -> Option<Mode> {
        match nexthop {
            Nexthop::Mpls { .. } => Some(Mode::Mpls),
            Nexthop::EncapIp { dev, .. } => match self.observed.links.get(dev)?.kind.as_ref()? {
                LinkKind::GreExternal(_) => Some(Mode::Gre),
                LinkKind::VxlanGpe { .. } => Some(Mode::Vxlan),
                LinkKind::GreLocal(_) => None,
            },
        }
    }

    /// Whether the VIP is in the table of the routing daemon.
    pub fn announces(&self, vip: IpAddr) -> bool {
        self.announced.contains(&vip)
    }

    /// Whether `drain-node` has been said.
    pub fn withdrawn(&self) -> bool {
        self.observed.withdrawn
    }

    /// Everything that the kernel says about VIPs.
    pub fn status(&self) -> NodeStatus {
        let taken_in = self.table().and_then(seen::taken_in);
        NodeStatus {
            source: Source::Kernel,
            node: self.table().and_then(node::owner),
            ingress: taken_in.is_some(),
            withdrawn: self.withdrawn(),
            vips: taken_in.into_iter().flatten().map(|vip| self.vip(vip)).collect(),
            ..NodeStatus::default()
        }
    }

    fn table(&self) -> Option<&'a ObservedTable> {
        self.observed.nft.as_ref()
    }

    fn vip(&self, address: IpAddr) -> VipStatus {
        let flows = self.flows(address);
        let mut vip = VipStatus {
            address,
            service: None,
            mode: None,
            buckets: flows.map_or(0, |flows| flows.buckets.get()),
            seed: flows.map_or(0, |flows| flows.seed),
            client_ip_affinity: flows.is_some_and(|flows| flows.key == HashKey::Addresses),
            generation: None,
            announced: self.announces(address),
            endpoints: Vec::new(),
            refuses_new: false,
            draining: BTreeMap::new(),
            short: Vec::new(),
            tunnel_ids: BTreeMap::new(),
        };
        let field = flows.and_then(|flows| self.mark_field(Family::of(address), flows.buckets));
        let (Some(flows), Some(field)) = (flows, field) else { return vip };
        let mut endpoints: BTreeMap<String, EndpointStatus> = BTreeMap::new();
        let mut modes = BTreeSet::new();
        let mut owners: Vec<(Bucket, String)> = Vec::new();
        for bucket in flows.buckets.iter() {
            let way = self.table_of(address, field.mark(bucket)).and_then(|table| self.way(table, address));
            let Some(Way::Via { nexthop: Some(nexthop), .. }) = way else { continue };
            modes.extend(self.mode(nexthop));
            let endpoint = endpoint(nexthop);
            owners.push((bucket, endpoint.id.clone()));
            endpoints.entry(endpoint.id.clone()).or_insert(endpoint);
            let id = nexthop.tunnel_id();
            if id != TunnelId::OWNER_ALONE {
                vip.tunnel_ids.insert(bucket.number(), id.bits());
                vip.draining.insert(bucket.number(), drains(id));
            }
        }
        for (bucket, id) in owners {
            if let Some(endpoint) = endpoints.get_mut(&id) {
                endpoint.buckets.insert(bucket.number());
            }
        }
        vip.mode = modes.first().map(Mode::to_string);
        vip.endpoints = endpoints.into_values().collect();
        vip
    }
}

/// Who is asked, as far as the kernel says it.
fn drains(id: TunnelId) -> Vec<DrainStatus> {
    let drain = |(place, name): (usize, Name)| DrainStatus {
        endpoint: format!("name {name}"),
        since: None,
        why: None,
        datagrams: place == 0 && id.datagrams(),
        connections: None,
    };
    id.list().enumerate().map(drain).collect()
}

/// An endpoint of which no more is known than how it is reached.
fn endpoint(nexthop: &Nexthop) -> EndpointStatus {
    match nexthop {
        Nexthop::EncapIp { dst, .. } => {
            EndpointStatus { id: dst.to_string(), addresses: vec![*dst], ..EndpointStatus::default() }
        }
        Nexthop::Mpls { label, via, .. } => {
            EndpointStatus { id: format!("label {label} via {via}"), label: Some(*label), ..EndpointStatus::default() }
        }
    }
}
