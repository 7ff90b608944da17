//! The tables of the BPF programs that `tc` has attached: which name is which pod, as that version's agent had written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::loaded_programs;
use serde_json::Value;
use tunnel_router::model::handover::Assignment;
use tunnel_router::model::second_chance::{
    ENDPOINT, ENDPOINT_KEY, LAST, VIP_KEY, endpoint, endpoint_key, last, vip_key,
};

use crate::netns::Netns;
use crate::world::World;

/// How the names of our devices begin.
const DEVICES: &str = "kst-";

/// Tells every program of a pod the names of these VIPs, by the Service's map: `tc` has loaded one for each device.
pub(super) fn tell(pod: &Netns, vips: &[&str], map: &Assignment) -> Result<()> {
    let programs = attached(pod)?;
    ensure!(!programs.is_empty(), "the pod has no program on a device {DEVICES}*");
    programs.into_iter().try_for_each(|program| tell_one(program, vips, map))
}

fn tell_one(program: u32, vips: &[&str], map: &Assignment) -> Result<()> {
    let mut tables = tables(program)?;
    let mut table = |name: &str| tables.remove(name).with_context(|| format!("the program has no table {name}"));
    let mut endpoints = HashMap::<_, [u8; ENDPOINT_KEY], [u8; ENDPOINT]>::try_from(Map::HashMap(table("endpoints")?))?;
    let mut lasts = HashMap::<_, [u8; VIP_KEY], [u8; LAST]>::try_from(Map::HashMap(table("vips")?))?;
    for vip in vips {
        let vip: IpAddr = vip.parse()?;
        for member in map.members.values() {
            endpoints.insert(endpoint_key(vip, member.name), endpoint(member.addresses), 0)?;
        }
        lasts.insert(vip_key(vip), last(map.last_name), 0)?;
    }
    Ok(())
}

/// The kernel's ids of the programs, as `tc` lists them.
fn attached(pod: &Netns) -> Result<BTreeSet<u32>> {
    let links: Value = serde_json::from_str(&World::run_in(pod, "ip -j link")?)?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    let mut ids = BTreeSet::new();
    for device in names.filter(|name| name.starts_with(DEVICES)) {
        let filters = World::run_in(pod, &format!("tc -j filter show dev {device} ingress"))?;
        let filters: Value = serde_json::from_str(&filters)?;
        let programs = filters.as_array().into_iter().flatten().filter_map(|f| f["options"]["prog"]["id"].as_u64());
        ids.extend(programs.map(u32::try_from).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(ids)
}

fn tables(program: u32) -> Result<BTreeMap<String, MapData>> {
    let mut loaded = loaded_programs().filter_map(Result::ok);
    let info = loaded.find(|info| info.id() == program).context("the program is not there")?;
    let mut found = BTreeMap::new();
    for id in info.map_ids()?.unwrap_or_default() {
        let data = MapData::from_id(id)?;
        found.insert(data.info()?.name_as_str().unwrap_or_default().to_owned(), data);
    }
    Ok(found)
}
