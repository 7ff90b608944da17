//! The opaque token between two pages of a list: a version and the last key, in the form the real server uses (JSON in
//! unpadded base64url). Clients must not look inside; the form matters only for the error about a broken one.

use serde_json::{Value, json};

use crate::apiserver::error::{ApiError, ApiResult};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Where the next page starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContinueToken {
    /// All pages show this version.
    pub revision: u64,
    /// The next page starts after this key path.
    pub after: String,
}

impl ContinueToken {
    /// The token as printed.
    pub fn encode(&self) -> String {
        let start = format!("{}\0", self.after);
        encode(json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": start}).to_string().as_bytes())
    }

    /// Reads a token.
    pub fn decode(text: &str) -> ApiResult<Self> {
        let invalid =
            |why: String| ApiError::BadRequest(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = decode(text).ok_or_else(|| invalid("illegal base64 data".into()))?;
        if let Some(first) = bytes.first().filter(|first| **first != b'{') {
            return Err(invalid(format!("invalid character {} looking for beginning of value", quoted(*first))));
        }
        let token: Value = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        let revision = token["rv"].as_u64().ok_or_else(|| invalid("no version".into()))?;
        let after = token["start"].as_str().unwrap_or_default().trim_end_matches('\0').to_owned();
        Ok(Self { revision, after })
    }
}

/// A byte as Go quotes a character.
fn quoted(byte: u8) -> String {
    if byte.is_ascii_graphic() { format!("'{}'", char::from(byte)) } else { format!("'\\u{byte:04x}'") }
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..=chunk.len() {
            let index = usize::try_from((word >> (18 - 6 * position)) & 63).unwrap_or_default();
            text.push(char::from(ALPHABET[index]));
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut word, mut bits) = (0_u32, 0);
    for character in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|known| *known == character)?;
        word = ((word << 6) | u32::try_from(value).ok()?) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((word >> bits) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip() {
        for after in ["/a", "/ns/name", "/x-1"] {
            let token = ContinueToken { revision: 354, after: after.into() };
            assert_eq!(ContinueToken::decode(&token.encode()).unwrap(), token);
        }
    }

    #[test]
    fn a_recorded_token_is_readable() {
        let token = ContinueToken::decode("eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MzU0LCJzdGFydCI6Ii9ub2RlMVx1MDAwMCJ9");
        assert_eq!(token.unwrap(), ContinueToken { revision: 354, after: "/node1".into() });
    }

    #[test]
    fn garbage_is_refused_in_the_words_of_the_server() {
        let error = ContinueToken::decode("garbage").unwrap_err();
        let expected = "invalid continue token: continue key is not valid: invalid character '\\u0081' looking for beginning of value";
        assert_eq!(error.to_string(), expected);
    }
}
