//! The tables of a BPF program that `tc` has attached: which name is which pod, as that version's agent had written.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::loaded_programs;
use serde_json::Value;
use tunnel_router::model::handover::Assignment;
use tunnel_router::model::second_chance::{
    ENDPOINT, ENDPOINT_KEY, LAST, VIP_KEY, endpoint, endpoint_key, last, vip_key,
};

use crate::netns::Netns;
use crate::world::World;

/// The device of pods in the mode that is recorded.
const DEVICE: &str = "kst-vxlan";

/// Tells the program of a pod the names of these VIPs, by the Service's map.
pub(super) fn tell(pod: &Netns, vips: &[&str], map: &Assignment) -> Result<()> {
    let mut tables = tables(attached(pod)?)?;
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

/// The kernel's id of the program, as `tc` lists it.
fn attached(pod: &Netns) -> Result<u32> {
    let listed: Value = serde_json::from_str(&World::run_in(pod, &format!("tc -j filter show dev {DEVICE} ingress"))?)?;
    let id = listed.as_array().into_iter().flatten().find_map(|filter| filter["options"]["prog"]["id"].as_u64());
    u32::try_from(id.with_context(|| format!("no program on {DEVICE}: {listed}"))?).context("an id")
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
