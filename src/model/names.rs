//! Names and numbers by which the agent's objects are recognised, on a node and in the API.
//!
//! Pruning goes by them, so none of them may be one that somebody else's object could have.

use std::fmt;

/// `rtm_protocol` of every route, rule and nexthop of the agent. Free in iproute2's `etc/iproute2/rt_protos`, and not one
/// that a routing daemon's `import` takes for the kernel's own.
pub const ROUTE_PROTOCOL: u8 = 107;

/// Longest name of a link, in bytes (`IFNAMSIZ` - 1, include/uapi/linux/if.h).
const LINK_NAME_MAX: usize = 15;
/// The longest name that a prefix has to carry.
const LONGEST_LINK_SUFFIX: &str = "vxlan";

/// Prefix of the names of all links of the agent, on nodes and in pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPrefix(String);

/// A prefix that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be 2 to {max} bytes of [A-Za-z0-9._-], start with a letter or digit and end with '-', '_' or '.', \
     so that <prefix>{LONGEST_LINK_SUFFIX} is a link name of at most {LINK_NAME_MAX} bytes and <prefix>* matches no foreign link",
    max = LINK_NAME_MAX - LONGEST_LINK_SUFFIX.len()
)]
pub struct LinkPrefixError;

impl LinkPrefix {
    /// Checks length and characters.
    ///
    /// # Errors
    /// When the prefix does not fit, has a character that `ip` or nft would not take in a name, or does not end in a
    /// separator: firewall rules match `<prefix>*`, and with the prefix `e` they would match `eth0`.
    pub fn new(prefix: &str) -> Result<LinkPrefix, LinkPrefixError> {
        let fits = prefix.len() + LONGEST_LINK_SUFFIX.len() <= LINK_NAME_MAX;
        let legal = prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let starts = prefix.starts_with(|c: char| c.is_ascii_alphanumeric());
        if fits && legal && starts && prefix.ends_with(['-', '_', '.']) {
            Ok(LinkPrefix(prefix.to_owned()))
        } else {
            Err(LinkPrefixError)
        }
    }

    /// The prefix itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the device for GRE over IPv4.
    pub fn gre(&self) -> String {
        format!("{}gre", self.0)
    }

    /// Name of the device for GRE over IPv6.
    pub fn gre6(&self) -> String {
        format!("{}gre6", self.0)
    }

    /// Name of a pod's device for GRE over IPv4. The node's name is that of the pod's device of earlier versions, which took
    /// packets without a key only: for a moment both stand side by side.
    pub fn pod_gre(&self) -> String {
        format!("{}xgre", self.0)
    }

    /// Name of a pod's device for GRE over IPv6.
    pub fn pod_gre6(&self) -> String {
        format!("{}xgre6", self.0)
    }

    /// Whether a link is ours by its name.
    pub fn is_of(&self, link: &str) -> bool {
        link.starts_with(&self.0)
    }

    /// Name of the VXLAN-GPE device.
    pub fn vxlan(&self) -> String {
        format!("{}vxlan", self.0)
    }
}

impl fmt::Display for LinkPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Longest last part of a qualified name (apimachinery `validation.IsQualifiedName`).
const NAME_PART_MAX: usize = 63;
/// The longest of what is appended to the annotation for the options of one Service (`-mode`, `-conntrack`).
const LONGEST_SUFFIX: &str = "-conntrack";

/// Key of the annotation that gives a Service its VIP: a qualified name, such as `cmd.nu/tunnel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotationKey(String);

/// A key that the API server would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a qualified name: [DNS subdomain of at most 253 bytes/]name, the name of at most {max} bytes (its {LONGEST_SUFFIX} \
     variant must fit {NAME_PART_MAX}) of [A-Za-z0-9._-] that starts and ends with a letter or digit, such as cmd.nu/tunnel",
    max = NAME_PART_MAX - LONGEST_SUFFIX.len()
)]
pub struct AnnotationKeyError;

impl AnnotationKey {
    /// Checks the key as the API server does.
    ///
    /// # Errors
    /// When the key, or the key with the name of an option behind it, is not a qualified name.
    pub fn new(key: &str) -> Result<AnnotationKey, AnnotationKeyError> {
        let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
        let prefix_is_good = prefix.is_none_or(is_dns_subdomain);
        let name_is_good = name.len() + LONGEST_SUFFIX.len() <= NAME_PART_MAX
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric());
        if prefix_is_good && name_is_good { Ok(AnnotationKey(key.to_owned())) } else { Err(AnnotationKeyError) }
    }

    /// The key itself: its value is the VIP.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AnnotationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the API server would take it as the name of a Node or the prefix of a key (RFC 1123, at most 253 bytes).
pub fn is_dns_subdomain(name: &str) -> bool {
    let label_is_good = |label: &str| {
        label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label_is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_named_after_the_prefix() {
        let prefix = LinkPrefix::new("kst-").unwrap();
        assert_eq!([prefix.gre(), prefix.gre6(), prefix.vxlan()], ["kst-gre", "kst-gre6", "kst-vxlan"]);
        assert_eq!([prefix.pod_gre(), prefix.pod_gre6()], ["kst-xgre", "kst-xgre6"]);
        assert!(prefix.is_of("kst-gre") && !prefix.is_of("kst"));
        let longest = LinkPrefix::new("123456789-").unwrap();
        assert!([longest.vxlan(), longest.pod_gre6()].iter().all(|name| name.len() == LINK_NAME_MAX));
    }

    #[test]
    fn a_prefix_that_is_no_link_name_or_could_match_a_foreign_link_is_refused() {
        for bad in ["", "-", "e", "eth", "-kst-", "k/t-", "k t-", "k*-", "kä-", "1234567890-"] {
            assert_eq!(LinkPrefix::new(bad), Err(LinkPrefixError), "{bad:?}");
        }
        assert!(LinkPrefixError.to_string().contains("2 to 10 bytes"), "{LinkPrefixError}");
    }

    #[test]
    fn a_key_leaves_room_for_its_options() {
        assert!(AnnotationKey::new("tunnel").is_ok());
        assert!(AnnotationKey::new(&"x".repeat(NAME_PART_MAX - LONGEST_SUFFIX.len())).is_ok());
    }

    #[test]
    fn a_key_that_the_api_server_refuses_is_refused() {
        let long = "x".repeat(54);
        let long_prefix = format!("{}/x", "a.".repeat(127));
        for bad in [
            "",
            "/",
            "/x",
            "cmd.nu/",
            "cmd.nu/a/b",
            "CMD.nu/x",
            "cmd..nu/x",
            "-a/x",
            "a/-x",
            "a/x_",
            "a/ä",
            &long,
            &long_prefix,
        ] {
            assert_eq!(AnnotationKey::new(bad), Err(AnnotationKeyError), "{bad:?}");
        }
    }

    #[test]
    fn dns_subdomains_are_told_from_other_names() {
        assert!(["a", "node-1", "node-1.example.org", "1"].into_iter().all(is_dns_subdomain));
        assert!(!["", "Node", "a_b", "a-", "-a", ".a", "a.", &"a".repeat(254)].into_iter().any(is_dns_subdomain));
    }
}
