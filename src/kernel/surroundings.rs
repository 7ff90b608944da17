//! Reading what others have set up that packets of VIPs may not survive.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::model::Family;
use crate::plan::NFT_TABLE;
use crate::plan::surroundings::{DropChain, HookedChain};

use super::error::KernelError;
use super::nft;
use super::sysctl;

/// Base chains of others with policy `drop` in the namespace of the calling thread (those of iptables-nft included; a legacy
/// iptables cannot be seen by `nft`).
///
/// # Errors
/// What `nft` said.
pub fn drops() -> Result<Vec<DropChain>, KernelError> {
    let mut drops = drop_chains(&nft::chains()?);
    for chain in &mut drops {
        chain.accepts_untracked = accepts_untracked(&nft::chain(&chain.family, &chain.table, &chain.name)?);
    }
    Ok(drops)
}

/// Base chains of others in the namespace of the calling thread that can drop packets.
///
/// # Errors
/// What `nft` said.
pub fn hooked() -> Result<Vec<HookedChain>, KernelError> {
    Ok(hooked_chains(&nft::chains()?))
}

/// Families that the namespace of the calling thread does not forward.
pub fn unforwarded() -> BTreeSet<Family> {
    Family::ALL.into_iter().filter(|family| !forwards(*family)).collect()
}

/// A kernel without the family has no such file, and nothing to forward either.
fn forwards(family: Family) -> bool {
    let path = match family {
        Family::V4 => "net/ipv4/ip_forward",
        Family::V6 => "net/ipv6/conf/all/forwarding",
    };
    fs::read_to_string(sysctl::file(path)).map_or(true, |text| text.trim() != "0")
}

/// Those of others.
fn chains(listed: &Value) -> impl Iterator<Item = &Value> {
    let chains = listed["nftables"].as_array().into_iter().flatten().filter_map(|object| object.get("chain"));
    chains.filter(|chain| chain["table"] != NFT_TABLE)
}

fn word(chain: &Value, key: &str) -> String {
    chain[key].as_str().unwrap_or_default().to_owned()
}

fn hooked_chains(listed: &Value) -> Vec<HookedChain> {
    let filters = chains(listed).filter(|c| c["hook"].is_string() && c["type"] != "nat");
    let hooked = filters.map(|c| HookedChain {
        family: word(c, "family"),
        table: word(c, "table"),
        name: word(c, "name"),
        hook: word(c, "hook"),
    });
    hooked.collect()
}

fn drop_chains(listed: &Value) -> Vec<DropChain> {
    let drops = chains(listed).filter(|c| c["policy"] == "drop");
    let hooked = drops.filter(|c| c["hook"] == "forward" || c["hook"] == "input");
    hooked
        .map(|c| DropChain {
            family: word(c, "family"),
            table: word(c, "table"),
            name: word(c, "name"),
            hook: word(c, "hook"),
            accepts_untracked: false,
        })
        .collect()
}

/// Text rather than JSON: of a rule that iptables made, only the text shows what it matches.
fn accepts_untracked(text: &str) -> bool {
    text.lines().any(|line| line.to_lowercase().contains("untracked") && line.contains("accept"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_chains_of_others_that_drop_what_is_forwarded_or_comes_in_count() {
        let chain = |table: &str, hook: &str, policy: &str| json!({ "chain": { "family": "ip", "table": table, "name": "c", "hook": hook, "policy": policy } });
        let listed = json!({ "nftables": [
            { "metainfo": {} },
            chain("filter", "forward", "drop"),
            chain("filter", "input", "accept"),
            chain("filter", "output", "drop"),
            chain(NFT_TABLE, "forward", "drop"),
            { "chain": { "family": "ip", "table": "filter", "name": "DOCKER" } },
        ] });
        let found = drop_chains(&listed);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].table.as_str(), found[0].hook.as_str()), ("filter", "forward"));
    }

    #[test]
    fn the_accept_is_recognised_in_both_spellings() {
        assert!(accepts_untracked("  ct state untracked accept"));
        assert!(accepts_untracked("  ct state established,related,untracked counter packets 0 bytes 0 accept"));
        assert!(accepts_untracked("  xt match conntrack --ctstate UNTRACKED counter accept"));
        assert!(!accepts_untracked("  ct state established accept\n  ct state untracked drop"));
    }
}
