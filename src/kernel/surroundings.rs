//! Reading what others have set up that packets of VIPs may not survive.

use std::collections::BTreeSet;
use std::fs;

use crate::model::Family;
use crate::plan::NFT_TABLE;
use crate::plan::surroundings::{DropChain, HookedChain};

use super::error::KernelError;
use super::nft;
use super::nft_ruleset::{BaseChain, base_chains};
use super::sysctl;

/// Base chains of others with policy `drop` in the namespace of the calling thread (those of iptables-nft included; a legacy
/// iptables cannot be seen by `nft`).
///
/// # Errors
/// A failure of netlink, or what `nft` said.
pub fn drops() -> Result<Vec<DropChain>, KernelError> {
    let mut drops = drop_chains(base_chains()?);
    for chain in &mut drops {
        chain.accepts_untracked = accepts_untracked(&nft::chain(&chain.family, &chain.table, &chain.name)?);
    }
    Ok(drops)
}

/// Base chains of others in the namespace of the calling thread that can drop packets.
///
/// # Errors
/// A failure of netlink.
pub fn hooked() -> Result<Vec<HookedChain>, KernelError> {
    Ok(hooked_chains(base_chains()?))
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
fn of_others(chains: Vec<BaseChain>) -> impl Iterator<Item = BaseChain> {
    chains.into_iter().filter(|chain| chain.table != NFT_TABLE)
}

fn hooked_chains(chains: Vec<BaseChain>) -> Vec<HookedChain> {
    let filters = of_others(chains).filter(|chain| chain.kind != "nat");
    let hooked = filters.map(|chain| HookedChain {
        family: chain.family.to_owned(),
        table: chain.table,
        name: chain.name,
        hook: chain.hook.to_owned(),
    });
    hooked.collect()
}

fn drop_chains(chains: Vec<BaseChain>) -> Vec<DropChain> {
    let drops = of_others(chains).filter(|chain| chain.drops && ["forward", "input"].contains(&chain.hook));
    let named = drops.map(|chain| DropChain {
        family: chain.family.to_owned(),
        table: chain.table,
        name: chain.name,
        hook: chain.hook.to_owned(),
        accepts_untracked: false,
    });
    named.collect()
}

/// Text rather than JSON: of a rule that iptables made, only the text shows what it matches.
fn accepts_untracked(text: &str) -> bool {
    text.lines().any(|line| line.to_lowercase().contains("untracked") && line.contains("accept"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chains_of_others_that_drop_what_is_forwarded_or_comes_in_count() {
        let chain = |table: &str, hook, drops| BaseChain {
            family: "ip",
            table: table.to_owned(),
            name: "c".to_owned(),
            hook,
            kind: "filter".to_owned(),
            drops,
        };
        let found = drop_chains(vec![
            chain("filter", "forward", true),
            chain("filter", "input", false),
            chain("filter", "output", true),
            chain(NFT_TABLE, "forward", true),
        ]);
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
