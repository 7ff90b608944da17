//! The tunnel id that a packet carries into a pod: the GRE key or the VXLAN VNI, 24 bits.
//!
//! ```text
//!  bits 0–10  first name     11–21  second name     22  non-TCP too     23  a pod has passed the packet on
//! ```

use super::Name;

const NON_TCP: u32 = 1 << 22;
const PASSED_ON: u32 = 1 << 23;
const NAME_BITS: u32 = 11;
const NAME_MASK: u32 = (1 << NAME_BITS) - 1;

/// A tunnel id, in its parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId {
    /// The former owners that get a second chance, in the order in which they are asked.
    pub names: [Option<Name>; 2],
    /// Packets that are not TCP belong to the first name, too.
    pub non_tcp: bool,
    /// A pod has sent the packet: nobody may be added to the names.
    pub passed_on: bool,
}

impl TunnelId {
    /// The id that an ingress node writes; names beyond the second are left out.
    pub fn of(names: impl IntoIterator<Item = Name>, non_tcp: bool) -> TunnelId {
        let mut names = names.into_iter();
        let names = [names.next(), names.next()];
        TunnelId { names, non_tcp: non_tcp && names[0].is_some(), passed_on: false }
    }

    /// The names that there are, first to last.
    pub fn names(self) -> impl Iterator<Item = Name> {
        self.names.into_iter().flatten()
    }

    /// The 24 bits.
    pub fn bits(self) -> u32 {
        let [first, second] = self.names.map(|name| name.map_or(0, |name| u32::from(name.get())));
        let flag = |set, bit| if set { bit } else { 0 };
        first | second << NAME_BITS | flag(self.non_tcp, NON_TCP) | flag(self.passed_on, PASSED_ON)
    }

    /// The id of these 24 bits; higher ones are ignored.
    pub fn from_bits(bits: u32) -> TunnelId {
        let names = [bits & NAME_MASK, bits >> NAME_BITS & NAME_MASK].map(Name::new);
        TunnelId { names, non_tcp: bits & NON_TCP != 0, passed_on: bits & PASSED_ON != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_lie_where_the_program_looks_for_them() {
        let name = |n| Name::new(n);
        let id = TunnelId { names: [name(5), name(2047)], non_tcp: true, passed_on: false };
        assert_eq!(id.bits(), 5 | 2047 << 11 | 1 << 22);
        assert_eq!(TunnelId { passed_on: true, ..TunnelId::default() }.bits(), 1 << 23);
        assert_eq!(TunnelId::of(name(3), true).bits(), 3 | 1 << 22);
        assert_eq!(TunnelId::of(None, true).bits(), 0, "non-TCP has nowhere to go");
    }

    #[test]
    fn all_24_bits_are_read_back() {
        for bits in (0..1 << 24).step_by(97) {
            assert_eq!(TunnelId::from_bits(bits).bits(), bits);
        }
    }
}
