//! Durations as people write them.

use std::time::Duration;

/// The longest duration that anybody may ask for.
const LONGEST: u64 = 24 * 3600;

/// Seconds, or a number with `s`, `m` or `h`; `None` beyond 24 h.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (digits, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(digits) if text.ends_with('m') => (digits, 60),
        Some(digits) if text.ends_with('h') => (digits, 3600),
        Some(digits) => (digits, 1),
        None => (text, 1),
    };
    let decimal = digits.bytes().all(|b| b.is_ascii_digit());
    let seconds = digits.parse::<u64>().ok().filter(|_| decimal)?.checked_mul(unit)?;
    (seconds <= LONGEST).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_an_end() {
        for (text, seconds) in [("0", 0), ("0s", 0), ("60", 60), ("1s", 1), ("90s", 90), ("2m", 120), ("24h", 86400)] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "s", "25h", "-1s", "+1s", "1.5s", "1ms", "1d", "18446744073709551615h"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }
}
