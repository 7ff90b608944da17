//! Which names objects may have.

use crate::apiserver::error::Cause;
use crate::apiserver::resource::{NameRule, Resource};

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                     and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                         and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
                         validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
                         an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                         validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// The faults of `metadata.name`.
pub fn check(resource: &Resource, name: &str) -> Vec<Cause> {
    let (legal, rule) = match resource.names {
        NameRule::Label => (is_label(name) && name.len() <= 63, LABEL),
        NameRule::Subdomain => (name.split('.').all(is_label) && name.len() <= 253, SUBDOMAIN),
    };
    if name.is_empty() {
        return vec![Cause::required("metadata.name", "name or generateName is required")];
    }
    if legal { Vec::new() } else { vec![Cause::invalid("metadata.name", &format!("\"{name}\""), rule)] }
}

/// The faults of a qualified name such as `example.com/controller`.
pub fn check_qualified(field: &str, value: &str) -> Vec<Cause> {
    let name = value.rsplit_once('/').map_or(value, |(_, name)| name);
    let shown = format!("\"{value}\"");
    let mut causes = Vec::new();
    if name.is_empty() {
        causes.push(Cause::invalid(field, &shown, "name part must be non-empty"));
    }
    if !is_qualified(name) {
        causes.push(Cause::invalid(field, &shown, QUALIFIED));
    }
    causes
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_qualified(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    edge(text.bytes().next()) && edge(text.bytes().last()) && text.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::resource::by_plural;

    #[test]
    fn labels_and_subdomains_differ_by_the_dot() {
        let faults = |plural: &str, name: &str| check(by_plural(plural).unwrap(), name).len();
        assert_eq!(faults("services", "a-1"), 0);
        assert_eq!(faults("services", "a.b"), 1);
        assert_eq!(faults("configmaps", "a.b"), 0);
        assert_eq!(faults("configmaps", "A"), 1);
        assert_eq!(faults("configmaps", "-a"), 1);
        assert_eq!(faults("configmaps", ""), 1);
    }

    #[test]
    fn an_empty_qualified_name_has_two_faults() {
        assert_eq!(check_qualified("x", "").len(), 2);
        assert_eq!(check_qualified("x", "cmd.nu/tunnel-router").len(), 0);
    }
}
