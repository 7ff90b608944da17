//! The few messages of the CRI that the lab needs, in protobuf's wire format.
//!
//! Generated code for the whole CRI costs every build more than all of these tests take; twenty fields do not need it. Field
//! numbers are those of `runtime.v1` (k8s.io/cri-api `api.proto`), beside each use.

/// Wire types of protobuf.
const VARINT: u8 = 0;
const I64: u8 = 1;
const BYTES: u8 = 2;
const I32: u8 = 5;

/// A message under construction.
#[derive(Debug, Clone, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A string.
    pub fn text(self, field: u8, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    /// A message inside this one.
    pub fn message(self, field: u8, inner: Message) -> Self {
        self.bytes(field, &inner.0)
    }

    /// A number, an enumeration or, as 1, `true`.
    pub fn number(mut self, field: u8, number: u64) -> Self {
        self.0.push(field << 3 | VARINT);
        self.varint(number);
        self
    }

    /// The encoded message.
    pub fn encoded(self) -> Vec<u8> {
        self.0
    }

    fn bytes(mut self, field: u8, bytes: &[u8]) -> Self {
        self.0.push(field << 3 | BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }
}

/// The text at the end of a path of field numbers, each the first of its number.
pub(super) fn text_at(message: &[u8], path: &[u64]) -> Option<String> {
    let inner = path.iter().try_fold(message, |inner, field| bytes_at(inner, *field))?;
    String::from_utf8(inner.to_vec()).ok()
}

fn bytes_at(mut rest: &[u8], wanted: u64) -> Option<&[u8]> {
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let length = match u8::try_from(key & 7).ok()? {
            VARINT => {
                varint(&mut rest)?;
                continue;
            }
            I64 => 8,
            I32 => 4,
            BYTES => usize::try_from(varint(&mut rest)?).ok()?,
            _ => return None,
        };
        let (value, behind) = rest.split_at_checked(length)?;
        if key >> 3 == wanted {
            return Some(value);
        }
        rest = behind;
    }
    None
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_behind_fields_of_every_kind() {
        let long = "x".repeat(300);
        let inner = Message::default().number(3, 1 << 40).text(1, &long);
        let message = Message::default().text(1, "id").message(2, inner).encoded();
        assert_eq!(text_at(&message, &[2, 1]), Some(long));
        assert_eq!(text_at(&message, &[1]).as_deref(), Some("id"));
        assert_eq!(text_at(&message, &[5]), None);
        assert_eq!(text_at(&message[..message.len() - 1], &[2]), None);
    }

    #[test]
    fn numbers_are_encoded_as_the_documentation_of_protobuf_shows() {
        assert_eq!(Message::default().number(1, 150).encoded(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().text(2, "testing").encoded(), b"\x12\x07testing");
    }
}
