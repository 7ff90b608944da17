//! The 24 bits of a tunnel id (GRE key, VXLAN VNI) as a list of former owners.

use std::fmt;

use super::name::Name;

const NAME_BITS: u32 = 11;
const NAMES: u32 = (1 << NAME_BITS) - 1;
const DATAGRAMS: u32 = 1 << 22;
const PASSED_ON: u32 = 1 << 23;

/// Whom the pod that gets a packet puts it to, if no socket there knows it.
///
/// ```text
///  bits 0–10  first former owner     11–21  second     22  datagrams too     23  passed on by a pod
/// ```
///
/// 0, the default, is a bucket without former owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TunnelId(u32);

impl TunnelId {
    /// No former owner: the pod that gets the packet takes it.
    pub const OWNER_ALONE: TunnelId = TunnelId(0);

    /// One former owner.
    pub fn former(first: Name) -> TunnelId {
        TunnelId(u32::from(first.get()))
    }

    /// Two former owners; `first` is put the packet to first.
    pub fn two_former(first: Name, second: Name) -> TunnelId {
        TunnelId(u32::from(first.get()) | u32::from(second.get()) << NAME_BITS)
    }

    /// The first two of these former owners; for every protocol but TCP, too, if `datagrams` says so.
    pub fn of(former: impl IntoIterator<Item = Name>, datagrams: bool) -> TunnelId {
        let mut former = former.into_iter();
        let id = match (former.next(), former.next()) {
            (None, _) => TunnelId::OWNER_ALONE,
            (Some(first), None) => TunnelId::former(first),
            (Some(first), Some(second)) => TunnelId::two_former(first, second),
        };
        if datagrams { id.with_datagrams() } else { id }
    }

    /// The same list, for every protocol but TCP, too. Without former owners there is nothing to say.
    #[must_use]
    pub fn with_datagrams(self) -> TunnelId {
        if self.list().next().is_some() { TunnelId(self.0 | DATAGRAMS) } else { self }
    }

    /// The same list, of a packet that a pod has passed on.
    #[must_use]
    pub fn passed_on(self) -> TunnelId {
        TunnelId(self.0 | PASSED_ON)
    }

    /// From the number that a route, a nexthop or a packet has; bits above 24 do not travel.
    pub fn from_bits(bits: u32) -> TunnelId {
        TunnelId(bits & 0x00ff_ffff)
    }

    /// The number for a route or nexthop.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The former owners, in the order in which a packet is put to them.
    pub fn list(self) -> impl Iterator<Item = Name> {
        [self.0 & NAMES, self.0 >> NAME_BITS & NAMES].into_iter().filter_map(|number| Name::new(number).ok())
    }

    /// Whether datagrams are put to the first former owner, too.
    pub fn datagrams(self) -> bool {
        self.0 & DATAGRAMS != 0
    }

    /// Whether a pod has passed the packet on.
    pub fn is_passed_on(self) -> bool {
        self.0 & PASSED_ON != 0
    }

    /// The id with which a pod passes a packet on to `to`: `to` and those before it have left the list, and datagrams are
    /// taken there. `None` if `to` is not in the list.
    #[must_use]
    pub fn onward(self, to: Name) -> Option<TunnelId> {
        let mut rest = self.list().skip_while(|name| *name != to);
        rest.next()?;
        Some(TunnelId::of(rest.next(), false).passed_on())
    }
}

impl fmt::Display for TunnelId {
    /// `0`, `5`, `5,6 datagrams`, `6 passed-on`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.list().map(|name| name.to_string()).collect();
        f.write_str(if names.is_empty() { "0" } else { "" })?;
        f.write_str(&names.join(","))?;
        f.write_str(if self.datagrams() { " datagrams" } else { "" })?;
        f.write_str(if self.is_passed_on() { " passed-on" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> Name {
        Name::new(number).unwrap()
    }

    #[test]
    fn each_part_of_an_id_has_its_bits() {
        assert_eq!(TunnelId::OWNER_ALONE.bits(), 0);
        assert_eq!(TunnelId::former(name(5)).bits(), 5);
        assert_eq!(TunnelId::two_former(name(5), name(6)).bits(), 5 | 6 << 11);
        assert_eq!(TunnelId::former(name(5)).with_datagrams().bits(), 5 | 1 << 22);
        assert_eq!(TunnelId::two_former(name(2047), name(2047)).with_datagrams().bits(), 0x7f_ffff);
        assert_eq!(TunnelId::OWNER_ALONE.with_datagrams(), TunnelId::OWNER_ALONE);
        assert_eq!(TunnelId::of([name(5), name(6), name(7)], true).bits(), 1 << 22 | 6 << 11 | 5);
        assert_eq!(TunnelId::of([], true), TunnelId::OWNER_ALONE);
    }

    #[test]
    fn an_id_is_read_from_its_24_bits() {
        let id = TunnelId::from_bits(0xff00_0000 | 1 << 23 | 7 << 11 | 3);
        assert_eq!(id.list().collect::<Vec<_>>(), [name(3), name(7)]);
        assert!(id.is_passed_on() && !id.datagrams());
        assert_eq!(TunnelId::from_bits(7 << 11).list().collect::<Vec<_>>(), [name(7)]);
    }

    #[test]
    fn whoever_passes_on_shortens_the_list_and_takes_the_datagrams_bit_away() {
        let id = TunnelId::two_former(name(5), name(6)).with_datagrams();
        let once = id.onward(name(5)).unwrap();
        assert_eq!(once.bits(), 1 << 23 | 6);
        assert_eq!(id.onward(name(6)).unwrap().bits(), 1 << 23);
        assert_eq!(once.onward(name(6)).unwrap().bits(), 1 << 23);
        assert_eq!(once.onward(name(5)), None);
    }

    #[test]
    fn an_id_says_what_it_means() {
        let id = TunnelId::two_former(name(5), name(6)).with_datagrams();
        let texts = [TunnelId::OWNER_ALONE, TunnelId::former(name(5)), id, id.onward(name(5)).unwrap()];
        assert_eq!(texts.map(|id| id.to_string()), ["0", "5", "5,6 datagrams", "6 passed-on"]);
    }
}
