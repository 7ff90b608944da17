//! SCTP packets (RFC 9260) that carry text without an association.
//!
//! A question is a HEARTBEAT, whose contents are the sender's business, and the answer its acknowledgement: the only pair of
//! chunks that connection tracking takes for a flow although nothing came before it. A kernel that knows SCTP answers stray
//! ones with an ABORT, which nobody here heeds.

/// Chunk types HEARTBEAT and HEARTBEAT ACK.
const HEARTBEAT: [u8; 2] = [4, 5];
/// The one parameter of both.
const INFORMATION: u16 = 1;
/// Common header, chunk header, parameter header.
const HEADERS: usize = 12 + 4 + 4;

/// A packet between the ports that carries the text.
pub(super) fn packet((source, destination): (u16, u16), is_question: bool, text: &[u8]) -> Vec<u8> {
    let [question, answer] = HEARTBEAT;
    let kind = if is_question { question } else { answer };
    let length = |headers: usize| u16::try_from(headers + text.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    // The verification tag is the same in both directions; the checksum comes last.
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    packet.extend([[kind, 0], length(8), INFORMATION.to_be_bytes(), length(4)].concat());
    packet.extend(text);
    packet.resize(packet.len().next_multiple_of(4), 0);
    let sum = crc32c(&packet).to_le_bytes();
    packet.splice(8..12, sum);
    packet
}

/// Ports and text of such a packet; `None` if it is none, or its checksum is wrong.
pub(super) fn parse(packet: &[u8]) -> Option<((u16, u16), &[u8])> {
    let short = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let sum = u32::from_le_bytes(packet.get(8..12)?.try_into().ok()?);
    let mut zeroed = packet.to_vec();
    zeroed.splice(8..12, [0; 4]);
    if crc32c(&zeroed) != sum || !HEARTBEAT.contains(packet.get(12)?) || short(16)? != INFORMATION {
        return None;
    }
    Some(((short(0)?, short(2)?), packet.get(HEADERS..16 + usize::from(short(18)?))?))
}

/// CRC-32C (Castagnoli), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    const REFLECTED: u32 = 0x82f6_3b78;
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ REFLECTED } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_known_texts_is_the_known_one() {
        // RFC 3720, B.4, and the check value of the CRC catalogue.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_packet_carries_its_ports_and_text_whatever_its_length() {
        for text in [&b""[..], b"a", b"ab", b"abc", b"abcd", b"abcde"] {
            let packet = packet((4444, 12345), true, text);
            assert_eq!(packet.len() % 4, 0);
            assert_eq!(parse(&packet), Some(((4444, 12345), text)));
        }
    }

    #[test]
    fn a_damaged_packet_is_none() {
        let mut packet = packet((4444, 12345), false, b"text");
        packet[1] ^= 1;
        assert_eq!(parse(&packet), None);
        assert_eq!(parse(b""), None);
    }
}
