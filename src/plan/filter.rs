//! The filter that holds the program for second chances on a device: what is there, what must be, and how it is made so.
//!
//! The agent loads the program itself, once for all pods. Printed, a step is what anybody can run with `tc`; the tables of a
//! program that `tc` has loaded are empty, so an agent replaces it.

use std::fmt;

use crate::model::second_chance::Version;

/// Preference of our filter among those of the device; the lowest is asked first.
pub const PREFERENCE: u16 = 1;
/// Handle of our filter.
pub const HANDLE: u32 = 1;
/// Where the printed commands expect the program.
const FILE: &str = "second_chance.o";

/// What a device has at our preference and handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedFilter {
    /// The kernel's id of the program.
    pub program: u32,
    /// Its version; `None` if somebody else made the filter, `tc` for example.
    pub version: Option<Version>,
}

/// One change of a device's filter. Each may be applied twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterStep {
    /// Write the object that the other steps read. Only for print: the agent has it in memory.
    WriteObject,
    /// Attach the program to ingress of the device; a program that is there is replaced atomically.
    Attach(String),
    /// Take filter and `clsact` from the device.
    Detach(String),
}

/// What turns the filter of a device into the wanted one: with the program of this id, or none.
pub fn filter_step(dev: &str, wanted: Option<u32>, observed: Option<&ObservedFilter>) -> Option<FilterStep> {
    match (wanted, observed) {
        (Some(id), Some(found)) if found.program == id && found.version.is_some() => None,
        (Some(_), _) => Some(FilterStep::Attach(dev.to_owned())),
        (None, Some(_)) => Some(FilterStep::Detach(dev.to_owned())),
        (None, None) => None,
    }
}

impl fmt::Display for FilterStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterStep::WriteObject => write!(f, "tunnel-router bpf-object > {FILE}"),
            FilterStep::Attach(dev) => write!(
                f,
                "tc qdisc replace dev {dev} clsact\ntc filter replace dev {dev} ingress pref {PREFERENCE} handle {HANDLE} \
                 bpf direct-action object-file {FILE} section classifier"
            ),
            FilterStep::Detach(dev) => write!(f, "tc qdisc del dev {dev} clsact"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(program: u32, version: Option<Version>) -> ObservedFilter {
        ObservedFilter { program, version }
    }

    #[test]
    fn a_filter_is_made_replaced_kept_or_removed() {
        let version = Some(Version::of(b"any"));
        let attach = Some(FilterStep::Attach("d".to_owned()));
        for (why, wanted, observed, step) in [
            ("nothing there", Some(7), None, attach.clone()),
            ("as wanted", Some(7), Some(found(7, version)), None),
            ("another program, of whatever version", Some(7), Some(found(6, version)), attach.clone()),
            ("made by somebody else", Some(7), Some(found(7, None)), attach),
            ("not wanted", None, Some(found(7, version)), Some(FilterStep::Detach("d".to_owned()))),
            ("nothing wanted, nothing there", None, None, None),
        ] {
            assert_eq!(filter_step("d", wanted, observed.as_ref()), step, "{why}");
        }
    }

    #[test]
    fn steps_print_as_commands() {
        let steps = [FilterStep::WriteObject, FilterStep::Attach("d".to_owned()), FilterStep::Detach("d".to_owned())];
        let text: Vec<String> = steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            text.join("\n"),
            "tunnel-router bpf-object > second_chance.o\n\
             tc qdisc replace dev d clsact\n\
             tc filter replace dev d ingress pref 1 handle 1 bpf direct-action object-file second_chance.o section classifier\n\
             tc qdisc del dev d clsact"
        );
    }
}
