//! The figures: percentiles, a table for people and a line of JSON per figure for programs.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

/// How this program, and with it the agent next to it, was built.
const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// One measured number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// The scenario.
    pub case: String,
    /// What was measured.
    pub what: String,
    /// `None`: it did not happen in the time that it was given.
    pub value: Option<f64>,
    /// Of the value.
    pub unit: &'static str,
}

/// Figures of one scenario. Each is shown at once, because a scenario takes minutes.
#[derive(Debug)]
pub struct Figures {
    case: String,
    /// In the order in which they were measured.
    pub all: Vec<Figure>,
}

impl Figures {
    /// Of a scenario.
    pub fn of(case: &str) -> Figures {
        Figures { case: case.to_owned(), all: Vec::new() }
    }

    /// Adds a figure.
    pub fn add(&mut self, what: impl Into<String>, value: Option<f64>, unit: &'static str) {
        let figure = Figure { case: self.case.clone(), what: what.into(), value, unit };
        eprintln!("{}: {} {} {unit}", figure.case, figure.what, shown(value));
        self.all.push(figure);
    }

    /// Adds a time.
    pub fn time(&mut self, what: impl Into<String>, time: Option<Duration>) {
        self.add(what, time.map(milliseconds), "ms");
    }

    /// Adds how often something happened.
    pub fn count(&mut self, what: impl Into<String>, count: impl TryInto<u32>) {
        self.add(what, count.try_into().ok().map(f64::from), "");
    }

    /// Adds the median and the 99th percentile of some times.
    pub fn percentiles(&mut self, what: &str, mut times: Vec<Duration>) {
        times.sort_unstable();
        for percent in [50, 99] {
            self.time(format!("{what}, p{percent}"), percentile(&times, percent));
        }
    }
}

/// A time in milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The smallest of the sorted times that so many percent of them do not exceed (nearest rank).
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

/// What a figure grows by when the size doubles.
fn per_doubling((size, value): (u32, f64), (larger, other): (u32, f64)) -> Option<f64> {
    let growth = (other / value).powf(1.0 / (f64::from(larger) / f64::from(size)).log2());
    growth.is_finite().then_some(growth)
}

/// The sizes that a figure was measured at and what it was, for scenarios that differ in size only (`vips-1000`).
fn by_size(figures: &[Figure], what: &str) -> Vec<(u32, f64)> {
    let of_size = |figure: &Figure| Some((figure.case.strip_prefix("vips-")?.parse().ok()?, figure.value?));
    let mut found: Vec<_> = figures.iter().filter(|figure| figure.what == what).filter_map(of_size).collect();
    found.sort_by_key(|(size, _)| *size);
    found
}

/// What each time and each amount of memory grows by per doubling, from each size to the next one.
pub fn doublings(figures: &[Figure]) -> Vec<Figure> {
    let mut grown = Vec::new();
    for what in names(figures) {
        let costs = figures.iter().any(|figure| figure.what == what && ["ms", "MiB"].contains(&figure.unit));
        for pair in by_size(figures, what).windows(2).filter(|_| costs) {
            let case = format!("{} to {}, per doubling", pair[0].0, pair[1].0);
            let value = per_doubling(pair[0], pair[1]);
            grown.push(Figure { case, what: what.to_owned(), value, unit: "x" });
        }
    }
    grown
}

/// Each name once, in their order.
fn names(figures: &[Figure]) -> Vec<&str> {
    once(figures.iter().map(|figure| figure.what.as_str()))
}

fn once<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    all.filter(|one| seen.insert(*one)).collect()
}

/// A line per figure.
///
/// # Errors
/// A number that JSON cannot hold.
pub fn json_lines(figures: &[Figure]) -> Result<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        bench: &'static str,
        profile: &'static str,
        #[serde(flatten)]
        figure: &'a Figure,
    }
    let mut out = String::new();
    for figure in figures {
        writeln!(out, "{}", serde_json::to_string(&Line { bench: "scale", profile: PROFILE, figure })?)?;
    }
    Ok(out)
}

/// A row per figure and a column per scenario.
pub fn table(figures: &[Figure]) -> String {
    let cases = once(figures.iter().map(|figure| figure.case.as_str()));
    let cell = |what: &str, case: &str| {
        let found = figures.iter().find(|figure| figure.what == what && figure.case == case);
        found.map_or_else(String::new, |figure| format!("{} {:<3}", shown(figure.value), figure.unit))
    };
    let line = |first: &str, cell: &dyn Fn(&str) -> String| {
        let row: String = cases.iter().map(|case| format!(" {:>28}", cell(case))).collect();
        format!("{first:<32}{row}\n")
    };
    let head = line(PROFILE, &|case| case.to_owned());
    names(figures).into_iter().fold(head, |table, what| table + &line(what, &|case| cell(what, case)))
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "(never)".to_owned(), |value| format!("{value:.1}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(count: u64) -> Vec<Duration> {
        (1..=count).map(Duration::from_millis).collect()
    }

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let of = |count, percent| percentile(&times(count), percent).map(|time| time.as_millis());
        assert_eq!([of(0, 50), of(1, 50), of(1, 99)], [None, Some(1), Some(1)]);
        assert_eq!([of(100, 50), of(100, 99), of(1000, 99), of(3, 50)], [Some(50), Some(99), Some(990), Some(2)]);
    }

    #[test]
    fn percentiles_do_not_depend_on_the_order_of_the_times() {
        let mut figures = Figures::of("vips-1");
        figures.percentiles("time", times(100).into_iter().rev().collect());
        let values: Vec<_> = figures.all.iter().map(|figure| figure.value).collect();
        assert_eq!(values, [Some(50.0), Some(99.0)]);
    }

    #[test]
    fn growth_is_per_doubling_whatever_the_sizes() {
        let growth = |larger, other| per_doubling((1000, 10.0), (larger, other)).map(|growth| growth.round());
        assert_eq!([growth(4000, 40.0), growth(2000, 40.0), growth(8000, 10.0)], [Some(2.0), Some(4.0), Some(1.0)]);
        assert_eq!(per_doubling((1000, 0.0), (2000, 1.0)), None);
    }

    #[test]
    fn only_what_costs_is_compared_and_only_between_sizes() {
        let figure = |case: &str, what: &str, value, unit| Figure { case: case.into(), what: what.into(), value, unit };
        let figures = [
            figure("vips-2000", "programmed", Some(40.0), "ms"),
            figure("vips-1000", "programmed", Some(10.0), "ms"),
            figure("vips-4000", "programmed", None, "ms"),
            figure("pods", "programmed", Some(1.0), "ms"),
            figure("vips-1000", "changes", Some(1.0), ""),
            figure("vips-2000", "changes", Some(2.0), ""),
        ];
        assert_eq!(doublings(&figures), [figure("1000 to 2000, per doubling", "programmed", Some(4.0), "x")]);
    }

    #[test]
    fn what_did_not_happen_is_null_in_json_and_named_in_the_table() {
        let figures = [Figure { case: "vips-1".into(), what: "removed".into(), value: None, unit: "ms" }];
        let line = json_lines(&figures).unwrap();
        assert!(line.ends_with("\"case\":\"vips-1\",\"what\":\"removed\",\"value\":null,\"unit\":\"ms\"}\n"), "{line}");
        assert!(table(&figures).ends_with("(never) ms \n"), "{}", table(&figures));
    }
}
