//! Text → number: the notations that flags take, whatever the number means.

use std::time::Duration;

use crate::model::parse_duration;

/// A 32-bit number, decimal or `0x` hexadecimal; `None` for anything else, signs and blanks included.
pub(super) fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    // from_str_radix takes a sign.
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() }
}

/// As [`parse_duration`], but not 0.
pub(super) fn duration(text: &str) -> Option<Duration> {
    parse_duration(text).filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("4294967295"), Some(u32::MAX));
        assert_eq!(number("0xffffffff"), Some(u32::MAX));
        assert_eq!(number("0XfF"), Some(255));
        for bad in ["", "0x", "-1", "+1", "0x+1", " 1", "1 ", "4294967296", "0x100000000", "1e3", "ff"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_interval_is_not_zero() {
        assert_eq!((duration("1s"), duration("0s")), (Some(Duration::from_secs(1)), None));
    }
}
