//! What the program's tables hold, and which writes turn one content into another.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::Name;
use super::present::Present;
use crate::model::Addresses;
use crate::model::handover::Intent;

/// Size of the key of `endpoints`: VIP, name.
pub const ENDPOINT_KEY: usize = 20;
/// Size of the value of `endpoints`: IPv6 address, IPv4 address.
pub const ENDPOINT: usize = 20;
/// Size of the key of `vips`: the VIP, IPv4 as `::ffff:a.b.c.d`.
pub const VIP_KEY: usize = 16;
/// Size of the value of `vips`: the name given out last.
pub const LAST: usize = 4;

/// The endpoints of a VIP, as far as packets may name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipNames {
    /// The name that was given out last; a later one in a packet is news.
    pub last: Name,
    /// Where the endpoints' pods are reached: those that own a bucket, may soon own one, or drain.
    pub endpoints: BTreeMap<Name, Addresses>,
    /// Who has the buckets whose owners have changed lately; `None` if none has.
    pub present: Option<Present>,
}

impl VipNames {
    /// What the pods of a node have to know about each VIP of a Service; `None` without a map.
    pub fn of(intent: &Intent) -> Option<VipNames> {
        let served = &intent.served;
        let present = Present::new(intent.hash, &served.present);
        Some(VipNames { last: served.last?, endpoints: served.names.clone(), present })
    }
}

/// The content of the tables of one node, VIP by VIP.
pub type Tables = BTreeMap<IpAddr, VipNames>;

/// One entry that is written or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableWrite {
    /// Create or replace an entry of `endpoints`.
    Endpoint(Name, Addresses),
    /// Create or replace the entry of `vips`.
    Last(Name),
    /// Delete the entry of `vips`.
    NoLast,
    /// Create or replace the entry of `present`.
    Present(Present),
    /// Delete the entry of `present`.
    NoPresent,
    /// Delete an entry of `endpoints`.
    NoEndpoint(Name),
}

/// The writes that turn one content of a VIP into another, in the order in which they must be made.
///
/// The program reads `last` before it looks a name up. So new names are written before `last`, or one of them would pass
/// for retired; and old names go after it. Without `last` every unknown name is news, so it goes first when the VIP goes.
/// The names of `present` are in `endpoints` before it is written, and until it is replaced.
pub fn changes(old: Option<&VipNames>, new: Option<&VipNames>) -> Vec<TableWrite> {
    let none = BTreeMap::new();
    let (before, after) = (old.map_or(&none, |o| &o.endpoints), new.map_or(&none, |n| &n.endpoints));
    let mut writes: Vec<TableWrite> = after
        .iter()
        .filter(|(name, addresses)| before.get(name) != Some(addresses))
        .map(|(name, addresses)| TableWrite::Endpoint(*name, *addresses))
        .collect();
    match (old.map(|o| o.last), new.map(|n| n.last)) {
        (old, Some(new)) if old != Some(new) => writes.push(TableWrite::Last(new)),
        (Some(_), None) => writes.push(TableWrite::NoLast),
        _ => {}
    }
    match (old.and_then(|o| o.present.as_ref()), new.and_then(|n| n.present.as_ref())) {
        (old, Some(new)) if old != Some(new) => writes.push(TableWrite::Present(new.clone())),
        (Some(_), None) => writes.push(TableWrite::NoPresent),
        _ => {}
    }
    writes.extend(before.keys().filter(|name| !after.contains_key(name)).map(|name| TableWrite::NoEndpoint(*name)));
    writes
}

/// The key of `vips`.
pub fn vip_key(vip: IpAddr) -> [u8; VIP_KEY] {
    match vip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The VIP of a key of `vips`.
pub fn of_vip_key(key: [u8; VIP_KEY]) -> IpAddr {
    Ipv6Addr::from(key).to_canonical()
}

/// The key of `endpoints`.
pub fn endpoint_key(vip: IpAddr, name: Name) -> [u8; ENDPOINT_KEY] {
    let mut key = [0; ENDPOINT_KEY];
    key[..VIP_KEY].copy_from_slice(&vip_key(vip));
    key[VIP_KEY..].copy_from_slice(&last(name));
    key
}

/// VIP and name of a key of `endpoints`; `None` if the number is not a name.
pub fn of_endpoint_key(key: [u8; ENDPOINT_KEY]) -> Option<(IpAddr, Name)> {
    let (vip, name) = key.split_at(VIP_KEY);
    Some((of_vip_key(vip.try_into().ok()?), of_last(name.try_into().ok()?)?))
}

/// The value of `vips`.
pub fn last(name: Name) -> [u8; LAST] {
    u32::from(name.get()).to_ne_bytes()
}

/// The name in a value of `vips`; `None` if the number is not a name.
pub fn of_last(value: [u8; LAST]) -> Option<Name> {
    Name::new(u32::from_ne_bytes(value)).ok()
}

/// The value of `endpoints`. A family that the endpoint does not have is all zero.
pub fn endpoint(addresses: Addresses) -> [u8; ENDPOINT] {
    let mut value = [0; ENDPOINT];
    value[..16].copy_from_slice(&addresses.v6.map_or([0; 16], |v6| v6.octets()));
    value[16..].copy_from_slice(&addresses.v4.map_or([0; 4], |v4| v4.octets()));
    value
}

/// The addresses in a value of `endpoints`.
pub fn of_endpoint(value: [u8; ENDPOINT]) -> Addresses {
    let (v6, v4) = value.split_at(16);
    let v6 = <[u8; 16]>::try_from(v6).map(Ipv6Addr::from).ok();
    let v4 = <[u8; 4]>::try_from(v4).map(Ipv4Addr::from).ok();
    Addresses { v4: v4.filter(|a| !a.is_unspecified()), v6: v6.filter(|a| !a.is_unspecified()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::handover::{FlowHash, Generation, HashKey, Served};
    use crate::model::{Bucket, BucketCount};

    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));

    fn name(number: u32) -> Name {
        Name::new(number).unwrap()
    }

    fn names(last: u32, endpoints: &[(u32, u8)]) -> VipNames {
        let address = |byte: &u8| Addresses::from(Ipv4Addr::new(10, 244, 0, *byte));
        let endpoints = endpoints.iter().map(|(n, a)| (name(*n), address(a))).collect();
        VipNames { last: name(last), endpoints, present: None }
    }

    fn hash() -> FlowHash {
        FlowHash { buckets: BucketCount::DEFAULT, seed: 7, key: HashKey::Ports }
    }

    /// A present owner of bucket 3.
    fn present(owner: u32) -> Option<Present> {
        Present::new(hash(), &BTreeMap::from([(Bucket::new(3).unwrap(), vec![name(owner)])]))
    }

    type Content = (Option<Name>, Option<Present>, BTreeMap<Name, Addresses>);

    fn carry_out(content: Option<VipNames>, writes: &[TableWrite]) -> Content {
        let mut endpoints = content.as_ref().map(|c| c.endpoints.clone()).unwrap_or_default();
        let mut present = content.as_ref().and_then(|c| c.present.clone());
        let mut last = content.map(|c| c.last);
        for write in writes {
            match write {
                TableWrite::Endpoint(name, addresses) => drop(endpoints.insert(*name, *addresses)),
                TableWrite::NoEndpoint(name) => assert!(endpoints.remove(name).is_some()),
                TableWrite::Last(name) => last = Some(*name),
                TableWrite::NoLast => last = None,
                TableWrite::Present(new) => present = Some(new.clone()),
                TableWrite::NoPresent => present = None,
            }
        }
        (last, present, endpoints)
    }

    #[test]
    fn keys_and_values_have_the_layout_of_the_program() {
        let both = Addresses { v4: Some(Ipv4Addr::new(10, 244, 0, 2)), v6: Some("fd00::2".parse().unwrap()) };
        assert_eq!(vip_key(VIP), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 10]);
        assert_eq!(endpoint_key(VIP, name(0x0102))[16..], 0x0102_u32.to_ne_bytes());
        assert_eq!(endpoint(both), [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 10, 244, 0, 2]);
        assert_eq!(endpoint(Addresses::default()), [0; ENDPOINT]);
        assert_eq!(last(name(7)), 7_u32.to_ne_bytes());
    }

    #[test]
    fn numbers_that_are_not_names_are_not_read_as_names() {
        assert_eq!(of_last([0; LAST]), None);
        assert_eq!(of_last(5000_u32.to_ne_bytes()), None);
        assert_eq!(of_endpoint_key([0; ENDPOINT_KEY]), None);
    }

    #[test]
    fn new_names_are_written_before_the_last_and_old_names_go_after_it() {
        let (old, new) = (names(2, &[(1, 1), (2, 2)]), names(4, &[(2, 2), (3, 3), (4, 4)]));
        let address = |byte| Addresses::from(Ipv4Addr::new(10, 244, 0, byte));
        assert_eq!(
            changes(Some(&old), Some(&new)),
            [
                TableWrite::Endpoint(name(3), address(3)),
                TableWrite::Endpoint(name(4), address(4)),
                TableWrite::Last(name(4)),
                TableWrite::NoEndpoint(name(1)),
            ]
        );
    }

    #[test]
    fn a_vip_that_goes_loses_its_last_name_first() {
        let old = VipNames { present: present(2), ..names(2, &[(2, 2)]) };
        let writes = [TableWrite::NoLast, TableWrite::NoPresent, TableWrite::NoEndpoint(name(2))];
        assert_eq!(changes(Some(&old), None), writes);
        assert_eq!(changes(None, None), []);
        assert_eq!(changes(Some(&old), Some(&old)), []);
    }

    #[test]
    fn an_endpoint_with_another_address_is_written_again() {
        let writes = changes(Some(&names(2, &[(2, 2)])), Some(&names(2, &[(2, 9)])));
        assert_eq!(writes, [TableWrite::Endpoint(name(2), Ipv4Addr::new(10, 244, 0, 9).into())]);
    }

    #[test]
    fn present_owners_are_written_after_new_names_and_before_old_ones_go() {
        let old = VipNames { present: present(1), ..names(2, &[(1, 1), (2, 2)]) };
        let new = VipNames { present: present(3), ..names(3, &[(2, 2), (3, 3)]) };
        assert_eq!(
            changes(Some(&old), Some(&new)),
            [
                TableWrite::Endpoint(name(3), Ipv4Addr::new(10, 244, 0, 3).into()),
                TableWrite::Last(name(3)),
                TableWrite::Present(present(3).unwrap()),
                TableWrite::NoEndpoint(name(1)),
            ]
        );
        let later = VipNames { present: None, ..new.clone() };
        assert_eq!(changes(Some(&new), Some(&later)), [TableWrite::NoPresent]);
    }

    #[test]
    fn another_hash_replaces_the_present_owners_together_with_it() {
        let old = VipNames { present: present(2), ..names(2, &[(2, 2)]) };
        let hash = FlowHash { key: HashKey::Addresses, ..hash() };
        let other = Present::new(hash, &BTreeMap::from([(Bucket::new(3).unwrap(), vec![name(2)])]));
        let new = VipNames { present: other.clone(), ..old.clone() };
        assert_eq!(changes(Some(&old), Some(&new)), [TableWrite::Present(other.unwrap())]);
    }

    fn intent(served: Served) -> Intent {
        let (next_hops, members) = Default::default();
        Intent { generation: Generation(1), hash: hash(), next_hops, served, members }
    }

    #[test]
    fn pods_are_told_what_the_intent_says_about_serving() {
        let wanted = VipNames { present: present(2), ..names(5, &[(2, 2), (4, 4)]) };
        let owners = BTreeMap::from([(Bucket::new(3).unwrap(), vec![name(2)])]);
        let served = Served { names: wanted.endpoints.clone(), last: Some(wanted.last), present: owners };
        assert_eq!(VipNames::of(&intent(served)), Some(wanted));
    }

    #[test]
    fn without_a_map_pods_are_told_nothing() {
        assert_eq!(VipNames::of(&intent(Served::default())), None);
    }

    fn any_content() -> impl Strategy<Value = Option<VipNames>> {
        let endpoints = proptest::collection::btree_map(1_u32..9, 1_u8..4, 0..5);
        proptest::option::of((1_u32..9, endpoints, proptest::option::of(1_u32..4)).prop_map(|(last, all, owner)| {
            let all: Vec<_> = all.into_iter().collect();
            VipNames { present: owner.and_then(present), ..names(last, &all) }
        }))
    }

    proptest! {
        #[test]
        fn the_writes_lead_from_any_content_to_any_other(old in any_content(), new in any_content()) {
            let writes = changes(old.as_ref(), new.as_ref());
            let (last, present, endpoints) = carry_out(old, &writes);
            prop_assert_eq!(last, new.as_ref().map(|n| n.last));
            prop_assert_eq!(present, new.as_ref().and_then(|n| n.present.clone()));
            prop_assert_eq!(endpoints, new.map(|n| n.endpoints).unwrap_or_default());
        }

        #[test]
        fn what_is_encoded_is_read_back(vip: IpAddr, number in 1_u32..2048, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) {
            let addresses = Addresses { v4: v4.filter(|a| !a.is_unspecified()), v6: v6.filter(|a| !a.is_unspecified()) };
            prop_assert_eq!(of_endpoint(endpoint(addresses)), addresses);
            prop_assert_eq!(of_endpoint_key(endpoint_key(vip, name(number))), Some((vip.to_canonical(), name(number))));
            prop_assert_eq!(of_last(last(name(number))), Some(name(number)));
        }
    }
}
