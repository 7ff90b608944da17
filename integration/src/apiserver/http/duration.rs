//! Ages as kubectl shows them: `7s`, `3m5s`, `70m`, `5h12m`, `2d3h`.

use serde_json::Value;

use crate::apiserver::object::text;

/// The age of an object, or `<unknown>`.
pub fn age(object: &Value) -> String {
    since(text(object, "/metadata/creationTimestamp"))
}

/// The time since an RFC 3339 timestamp.
pub fn since(timestamp: &str) -> String {
    let Ok(then) = timestamp.parse::<jiff::Timestamp>() else { return "<unknown>".into() };
    human(jiff::Timestamp::now().duration_since(then).as_secs().max(0))
}

fn human(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let pair = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{small_unit}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_grow_with_the_age() {
        let seen = [0, 119, 120, 185, 4200, 11_000, 30_000, 180_000, 864_000].map(human);
        assert_eq!(seen, ["0s", "119s", "2m", "3m5s", "70m", "3h3m", "8h", "2d2h", "10d"]);
    }
}
