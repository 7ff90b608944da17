//! Field selectors: `metadata.name=x,spec.nodeName!=y`. Only the fields in the table of resources can be selected.

use serde_json::Value;

use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::resource::Resource;

/// All requirements must hold.
#[derive(Debug, Clone, Default)]
pub struct FieldSelector(Vec<Requirement>);

#[derive(Debug, Clone)]
struct Requirement {
    /// JSON pointer of the field.
    pointer: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// Parses; a field that the resource cannot select by is 400, as on a real server.
    pub fn parse(resource: &Resource, text: &str) -> ApiResult<Self> {
        let terms = text.split(',').filter(|term| !term.is_empty());
        terms.map(|term| Requirement::parse(resource, term)).collect::<ApiResult<_>>().map(Self)
    }

    /// Whether the object has the wanted values.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|wanted| (printed(object, &wanted.pointer) == wanted.value) == wanted.equal)
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Requirement {
    fn parse(resource: &Resource, term: &str) -> ApiResult<Self> {
        let (field, value, equal) = if let Some((field, value)) = term.split_once("!=") {
            (field, value, false)
        } else if let Some((field, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
            (field, value, true)
        } else {
            let why = format!("invalid selector: '{term}'; can't understand '{term}'");
            return Err(ApiError::BadRequest(why));
        };
        if !resource.selects(field) {
            return Err(ApiError::BadRequest(format!("field label not supported: {field}")));
        }
        Ok(Self { pointer: format!("/{}", field.replace('.', "/")), value: value.to_owned(), equal })
    }
}

/// The value as a selector sees it: absent is empty, except that absent booleans are `false`.
fn printed(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        None if ["/spec/unschedulable", "/spec/hostNetwork"].contains(&pointer) => "false".into(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::resource::by_plural;

    fn matches(plural: &str, selector: &str, object: &Value) -> bool {
        FieldSelector::parse(by_plural(plural).unwrap(), selector).unwrap().matches(object)
    }

    #[test]
    fn equality_and_inequality() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
        assert!(matches("pods", "spec.nodeName=n1,metadata.name==a", &pod));
        assert!(!matches("pods", "spec.nodeName!=n1", &pod));
        assert!(matches("pods", "status.phase=,spec.hostNetwork=false", &pod));
    }

    #[test]
    fn an_unsupported_field_is_named() {
        let error = FieldSelector::parse(by_plural("services").unwrap(), "spec.bogus=x").unwrap_err();
        assert_eq!(error.to_string(), "field label not supported: spec.bogus");
    }
}
