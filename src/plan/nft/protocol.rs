//! IP protocols as numbers: nft asks `/etc/protocols` for a name, and minimal images have no such file.

pub(super) const UDP: u8 = 17;
pub(super) const GRE: u8 = 47;

/// Matches TCP, UDP and SCTP.
pub(super) const WITH_PORTS: &str = "meta l4proto { 6, 17, 132 }";
