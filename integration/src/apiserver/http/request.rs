//! From a request line to [`RequestInfo`]: which verb on which resource, as the real server's request-info resolver reads it.

use std::collections::BTreeMap;

use axum::http::request::Parts;
use axum::http::{HeaderName, header};

use crate::apiserver::journal::RequestInfo;

/// Reads the request line and the headers.
pub fn parse(parts: &Parts) -> RequestInfo {
    let text =
        |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut info = RequestInfo {
        path: parts.uri.path().to_owned(),
        query: query(parts.uri.query().unwrap_or_default()),
        user_agent: text(header::USER_AGENT),
        content_type: text(header::CONTENT_TYPE),
        ..RequestInfo::default()
    };
    let segments: Vec<String> = parts
        .uri
        .path()
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| decode(segment, false))
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let rest = match segments.as_slice() {
        ["api", version, rest @ ..] => {
            info.version = (*version).to_owned();
            rest
        }
        ["apis", group, version, rest @ ..] => {
            (info.group, info.version) = ((*group).to_owned(), (*version).to_owned());
            rest
        }
        _ => &[],
    };
    resource(&mut info, rest);
    info.verb = verb(parts.method.as_str(), &info);
    info
}

fn resource(info: &mut RequestInfo, rest: &[&str]) {
    let rest = match rest {
        ["watch", rest @ ..] => {
            info.query.insert("watch".into(), "true".into());
            rest
        }
        rest => rest,
    };
    let rest = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() && !["status", "finalize"].contains(&rest[0]) => {
            info.namespace = Some((*namespace).to_owned());
            rest
        }
        rest => rest,
    };
    let mut parts = rest.iter().map(|part| (*part).to_owned());
    info.resource = parts.next().unwrap_or_default();
    info.name = parts.next().unwrap_or_default();
    info.subresource = parts.next().unwrap_or_default();
}

fn verb(method: &str, info: &RequestInfo) -> String {
    let collection = info.name.is_empty();
    let watch = info.query.get("watch").is_some_and(|value| ["true", "1", ""].contains(&value.as_str()));
    let verb = match method {
        _ if info.resource.is_empty() => return method.to_lowercase(),
        "GET" | "HEAD" if watch => "watch",
        "GET" | "HEAD" if collection => "list",
        "GET" | "HEAD" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if collection => "deletecollection",
        "DELETE" => "delete",
        other => return other.to_lowercase(),
    };
    verb.to_owned()
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, true), decode(value, true))
        })
        .collect()
}

/// Percent-decoding; in queries `+` is a blank. What is no escape stays as it is.
fn decode(text: &str, plus: bool) -> String {
    let raw = text.as_bytes();
    let (mut bytes, mut at) = (Vec::new(), 0);
    while let Some(byte) = raw.get(at) {
        let escaped = raw.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match (byte, escaped.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(decoded)) => {
                bytes.push(decoded);
                at += 2;
            }
            (b'+', _) if plus => bytes.push(b' '),
            _ => bytes.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn info(method: &str, uri: &str) -> RequestInfo {
        parse(&Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0)
    }

    fn brief(method: &str, uri: &str) -> String {
        let info = info(method, uri);
        let namespace = info.namespace.unwrap_or_else(|| "-".into());
        format!("{} {}/{} {namespace} {} {}", info.verb, info.group, info.resource, info.name, info.subresource)
    }

    #[test]
    fn paths_become_verbs_on_resources() {
        for (method, uri, expected) in [
            ("GET", "/api/v1/services", "list /services -  "),
            ("GET", "/api/v1/services?watch=true", "watch /services -  "),
            ("GET", "/api/v1/watch/services", "watch /services -  "),
            ("GET", "/api/v1/namespaces/a/services/b", "get /services a b "),
            ("PATCH", "/api/v1/namespaces/a/services/b/status", "patch /services a b status"),
            ("GET", "/api/v1/namespaces/a", "get /namespaces - a "),
            ("PUT", "/api/v1/namespaces/a/status", "update /namespaces - a status"),
            ("POST", "/apis/coordination.k8s.io/v1/namespaces/a/leases", "create coordination.k8s.io/leases a  "),
            ("DELETE", "/api/v1/nodes", "deletecollection /nodes -  "),
            ("GET", "/apis/apps/v1", "get apps/ -  "),
            ("GET", "/version", "get / -  "),
        ] {
            assert_eq!(brief(method, uri), expected, "{method} {uri}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = info("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1%2Ca%3Db+c&x=%zz&y").query;
        assert_eq!(query["fieldSelector"], "spec.nodeName=n1,a=b c");
        assert_eq!((query["x"].as_str(), query["y"].as_str()), ("%zz", ""));
    }
}
