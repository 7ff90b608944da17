//! Text → number: the notations that flags take, whatever the number means.

use std::time::Duration;

/// Shortest and longest interval that a duration flag takes.
const DURATIONS: std::ops::RangeInclusive<u64> = 1..=24 * 3600;

/// A 32-bit number, decimal or `0x` hexadecimal; `None` for anything else, signs and blanks included.
pub(super) fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    // from_str_radix takes a sign.
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() }
}

/// Seconds, or a number with `s`, `m` or `h`; `None` beyond 1 s to 24 h.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(digits) if text.ends_with('m') => (digits, 60),
        Some(digits) if text.ends_with('h') => (digits, 3600),
        Some(digits) => (digits, 1),
        None => (text, 1),
    };
    let decimal = digits.bytes().all(|b| b.is_ascii_digit());
    let seconds = digits.parse::<u64>().ok().filter(|_| decimal)?.checked_mul(unit)?;
    DURATIONS.contains(&seconds).then(|| Duration::from_secs(seconds))
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
    fn durations_have_units_and_bounds() {
        for (text, seconds) in [("60", 60), ("1s", 1), ("90s", 90), ("2m", 120), ("24h", 86400)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "s", "0", "0s", "25h", "-1s", "+1s", "1.5s", "1ms", "1d", "18446744073709551615h"] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
    }
}
