//! The filter that holds the program for second chances on a device: what is there, what must be, and how it is made so.
//!
//! The agent loads the program itself, once for all pods. Printed, a step is what anybody can run with `tc`; the tables of a
//! program that `tc` has loaded are empty, so an agent replaces it.

use std::fmt;

use super::Step;
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

/// What turns the filter of a device into the wanted one: with the program of this id, or none.
pub fn filter_step(dev: &str, wanted: Option<u32>, observed: Option<&ObservedFilter>) -> Option<Step> {
    match (wanted, observed) {
        (Some(id), Some(found)) if found.program == id && found.version.is_some() => None,
        (Some(program), _) => Some(Step::AttachFilter { dev: dev.to_owned(), program }),
        (None, Some(_)) => Some(Step::DetachFilter(dev.to_owned())),
        (None, None) => None,
    }
}

/// Writes the object that attaching reads. Only for print: the agent has it in memory.
pub(super) fn print_object(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "tunnel-router bpf-object > {FILE}")
}

/// Attaches the program to ingress of a device; a program that is there is replaced atomically.
pub(super) fn print_attach(f: &mut fmt::Formatter<'_>, dev: &str) -> fmt::Result {
    write!(
        f,
        "tc qdisc replace dev {dev} clsact\ntc filter replace dev {dev} ingress pref {PREFERENCE} handle {HANDLE} \
         bpf direct-action object-file {FILE} section classifier"
    )
}

/// Takes filter and `clsact` from a device.
pub(super) fn print_detach(f: &mut fmt::Formatter<'_>, dev: &str) -> fmt::Result {
    write!(f, "tc qdisc del dev {dev} clsact")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    fn found(program: u32, version: Option<Version>) -> ObservedFilter {
        ObservedFilter { program, version }
    }

    fn attach(program: u32) -> Step {
        Step::AttachFilter { dev: "d".to_owned(), program }
    }

    #[test]
    fn a_filter_is_made_replaced_kept_or_removed() {
        let version = Some(Version::of(b"any"));
        for (why, wanted, observed, step) in [
            ("nothing there", Some(7), None, Some(attach(7))),
            ("as wanted", Some(7), Some(found(7, version)), None),
            ("another program, of whatever version", Some(7), Some(found(6, version)), Some(attach(7))),
            ("made by somebody else", Some(7), Some(found(7, None)), Some(attach(7))),
            ("not wanted", None, Some(found(7, version)), Some(Step::DetachFilter("d".to_owned()))),
            ("nothing wanted, nothing there", None, None, None),
        ] {
            assert_eq!(filter_step("d", wanted, observed.as_ref()), step, "{why}");
        }
    }

    #[test]
    fn a_plan_that_attaches_writes_the_object_first_and_once() {
        let detach = || Step::DetachFilter("d".to_owned());
        let text = Plan { steps: vec![detach(), attach(7), attach(8)] }.to_string();
        let tc = "tc qdisc replace dev d clsact\n\
                  tc filter replace dev d ingress pref 1 handle 1 bpf direct-action object-file second_chance.o section classifier\n";
        let del = "tc qdisc del dev d clsact\n";
        assert_eq!(text, format!("tunnel-router bpf-object > second_chance.o\n{del}{tc}{tc}"));
        assert_eq!(Plan { steps: vec![detach()] }.to_string(), del);
    }
}
