//! LIST: selection, pages, and which version of the past is shown.

use std::sync::Arc;

use serde_json::Value;

use super::{Verbs, shown};
use crate::apiserver::error::{ApiError, ApiResult, Cause};
use crate::apiserver::resource::Resource;
use crate::apiserver::selector::Selection;
use crate::apiserver::store::continue_token::ContinueToken;
use crate::apiserver::store::{Key, State};

/// The part of the query that says which version and which page.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// `resourceVersion`, as sent.
    pub revision: String,
    /// `resourceVersionMatch`.
    pub revision_match: String,
    /// `limit`; 0 is no limit.
    pub limit: usize,
    /// `continue`.
    pub continue_token: String,
}

/// One page of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The version that is shown.
    pub revision: u64,
    /// The objects, in the form of the API version.
    pub items: Vec<Value>,
    /// Where the next page starts; empty on the last.
    pub continue_token: String,
    /// How many objects follow, when that is known.
    pub remaining: Option<usize>,
}

/// Which version a list shows.
enum View {
    Latest,
    At(u64),
}

impl Verbs {
    /// Lists what is selected.
    pub fn list(&self, resource: &'static Resource, selection: &Selection, options: &ListOptions) -> ApiResult<Page> {
        self.store.read(|state| {
            let token = match options.continue_token.as_str() {
                "" => None,
                text => Some(ContinueToken::decode(text)?),
            };
            let view = match &token {
                Some(token) if token.revision < state.compacted() => return Err(expired_token()),
                Some(token) => View::At(token.revision),
                None => view(state, options)?,
            };
            let (revision, all) = match view {
                View::Latest => (state.revision(), collect(state.all(resource.storage))),
                View::At(revision) => (revision, collect(state.all_at(resource.storage, revision).iter())),
            };
            let cut = Cut { resource, selection, limit: options.limit, after: token.map(|token| token.after) };
            Ok(cut.page(revision, all))
        })
    }
}

type Item = (Key, Arc<Value>);

fn collect<'a>(items: impl Iterator<Item = (&'a Key, &'a Arc<Value>)>) -> Vec<Item> {
    items.map(|(key, object)| (key.clone(), Arc::clone(object))).collect()
}

/// Which part of a list is wanted.
struct Cut<'a> {
    resource: &'static Resource,
    selection: &'a Selection,
    limit: usize,
    /// The key path of the last object on the previous page.
    after: Option<String>,
}

impl Cut<'_> {
    fn page(&self, revision: u64, all: Vec<Item>) -> Page {
        let mut selected = all.into_iter().filter_map(|(key, object)| {
            let object = shown(self.resource, &object);
            let later = self.after.as_deref().is_none_or(|after| key.is_after(after));
            (later && self.selection.matches(&object)).then_some((key, object))
        });
        let limit = if self.limit == 0 { usize::MAX } else { self.limit };
        let first: Vec<(Key, Value)> = selected.by_ref().take(limit).collect();
        let remaining = selected.count();
        let mut page = Page { revision, ..Page::default() };
        if let Some((last, _)) = first.last().filter(|_| remaining > 0) {
            page.continue_token = ContinueToken { revision, after: last.path() }.encode();
            page.remaining = Some(remaining).filter(|_| !self.selection.is_filtered());
        }
        page.items = first.into_iter().map(|(_, object)| object).collect();
        page
    }
}

fn view(state: &State, options: &ListOptions) -> ApiResult<View> {
    let wanted = parse(&options.revision)?;
    match (options.revision_match.as_str(), wanted) {
        ("", None) => Ok(View::Latest),
        (_, None) => {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            Err(invalid_options(Cause::forbidden("resourceVersionMatch", why)))
        }
        (_, Some(requested)) if requested > state.revision() => {
            Err(ApiError::TooLargeVersion { requested, current: state.revision() })
        }
        ("Exact", Some(0)) => {
            let why = "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"";
            Err(invalid_options(Cause::forbidden("resourceVersionMatch", why)))
        }
        ("Exact", Some(revision)) if revision < state.compacted() => {
            let why =
                format!("The resourceVersion for the provided list is too old: {revision} ({})", state.compacted());
            Err(ApiError::Expired(why))
        }
        ("Exact", Some(revision)) => Ok(View::At(revision)),
        ("" | "NotOlderThan", Some(_)) => Ok(View::Latest),
        (other, _) => {
            let supported = ["Exact", "NotOlderThan", ""];
            Err(invalid_options(Cause::unsupported("resourceVersionMatch", other, &supported)))
        }
    }
}

fn parse(revision: &str) -> ApiResult<Option<u64>> {
    if revision.is_empty() {
        return Ok(None);
    }
    revision.parse().map(Some).map_err(|_| ApiError::BadRequest(unreadable_version(revision)))
}

/// The complaint about a version that is not a number.
pub fn unreadable_version(revision: &str) -> String {
    format!("resourceVersion: Invalid value: \"{revision}\": strconv.ParseUint: parsing \"{revision}\": invalid syntax")
}

/// A query that contradicts itself.
pub fn invalid_options(cause: Cause) -> ApiError {
    ApiError::Invalid { kind: "ListOptions", group: "meta.k8s.io", name: String::new(), causes: vec![cause] }
}

fn expired_token() -> ApiError {
    ApiError::Expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter."
            .into(),
    )
}
