//! In which form the client wants objects: whole, as metadata only, or as rows of a table.

use serde_json::{Value, json};

use super::table;
use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::resource::Resource;
use crate::apiserver::verbs::Page;

/// A form of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The objects themselves.
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
    /// `Table`, as kubectl prints it.
    Table(Include),
}

/// What a table row carries besides its cells (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// The metadata.
    Metadata,
    /// The whole object.
    Object,
}

impl Form {
    /// The first form in an `Accept` header that is served; there is only JSON.
    pub fn negotiate(accept: &str, include_object: &str) -> ApiResult<Self> {
        if accept.trim().is_empty() {
            return Ok(Self::Whole);
        }
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            if !["application/json", "application/*", "*/*"].contains(&parts.next().unwrap_or_default()) {
                continue;
            }
            match parts.find_map(|parameter| parameter.strip_prefix("as=")) {
                None => return Ok(Self::Whole),
                Some("Table") => return Ok(Self::Table(include(include_object))),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Ok(Self::Metadata),
                Some(_) => {}
            }
        }
        let message = "only the following media types are accepted: application/json";
        Err(ApiError::Injected { code: 406, reason: "NotAcceptable".into(), message: message.into() })
    }

    /// One object in this form. `first` is false for the later events of a watch, which repeat no column definitions.
    pub fn object(self, resource: &Resource, object: Value, first: bool) -> Value {
        match self {
            Self::Whole => object,
            Self::Metadata => metadata_of(&object),
            Self::Table(include) => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let rows = vec![table::row(resource, &object, include)];
                table::table(resource, metadata, rows, first)
            }
        }
    }

    /// A list in this form.
    pub fn list(self, resource: &Resource, page: Page) -> Value {
        let mut metadata = json!({"resourceVersion": page.revision.to_string()});
        if !page.continue_token.is_empty() {
            metadata["continue"] = json!(page.continue_token);
        }
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        match self {
            Self::Whole => {
                let items: Vec<Value> = page.items.into_iter().map(without_kind).collect();
                json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
                    "metadata": metadata, "items": items})
            }
            Self::Metadata => {
                let items: Vec<Value> = page.items.iter().map(metadata_of).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                    "items": items})
            }
            Self::Table(include) => {
                let rows = page.items.iter().map(|object| table::row(resource, object, include)).collect();
                table::table(resource, metadata, rows, true)
            }
        }
    }
}

/// The metadata of an object as an object.
pub fn metadata_of(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn include(parameter: &str) -> Include {
    match parameter {
        "None" => Include::None,
        "Object" => Include::Object,
        _ => Include::Metadata,
    }
}

/// Items of a list do not repeat their kind.
fn without_kind(mut object: Value) -> Value {
    if let Value::Object(map) = &mut object {
        map.remove("kind");
        map.remove("apiVersion");
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_is_served_wins() {
        for (accept, expected) in [
            ("", Form::Whole),
            ("*/*", Form::Whole),
            ("application/vnd.kubernetes.protobuf,application/json", Form::Whole),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Form::Table(Include::Metadata)),
            ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", Form::Metadata),
        ] {
            assert_eq!(Form::negotiate(accept, "").unwrap(), expected, "{accept}");
        }
        assert_eq!(Form::negotiate("application/yaml", "").unwrap_err().code(), 406);
    }
}
