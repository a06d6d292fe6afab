//! Paths that are no route as they stand, and methods a route does not have, answered as the reference's router does.
//! Called by [`super::super::routes`].

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tower_service::Service;

/// Paths with a GET.
const GET: [&str; 8] = [
    "/v1/models",
    "/health",
    "/ready",
    "/health/ready",
    "/admin/config",
    "/query",
    "/metrics",
    "/is_sleeping",
];

/// Paths with a POST.
const POST: [&str; 15] = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/completions/render",
    "/v1/chat/completions/render",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/inference/v1/generate",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/tokenize",
    "/admin/config",
    "/fake_metrics",
    "/sleep",
    "/wake_up",
];

/// Answers a request whose path is no route: by the route it means when repeated slashes, dots and escapes are taken out;
/// else by sending the client to the route that differs in case or in a last slash only; else with 404.
pub async fn other(mut known: Router, mut request: Request<Body>) -> Response {
    let path = clean(request.uri().path());
    if path != request.uri().path()
        && let Some(route) = GET.iter().chain(&POST).find(|route| **route == path)
        && let Some(uri) = with_query(route, request.uri())
    {
        *request.uri_mut() = uri;
        let Ok(answer) = known.call(request).await;
        return answer;
    }
    let (routes, status) = match *request.method() {
        Method::GET | Method::HEAD => (&GET[..], StatusCode::MOVED_PERMANENTLY),
        _ => (&POST[..], StatusCode::TEMPORARY_REDIRECT),
    };
    let meant = path.strip_suffix('/').unwrap_or(&path);
    let route = routes.iter().find(|route| route.eq_ignore_ascii_case(meant));
    match route.and_then(|route| with_query(route, request.uri())) {
        Some(uri) if *request.method() != Method::OPTIONS => {
            (status, [(header::LOCATION, uri.to_string())]).into_response()
        }
        _ => not_found(),
    }
}

/// Answers a method the route does not have: OPTIONS with those it has, others with 405.
pub async fn other_method(request: Request<Body>) -> Response {
    let path = request.uri().path();
    let methods = [("GET", &GET[..]), ("POST", &POST[..])];
    let mut allowed: Vec<&str> = methods
        .iter()
        .filter(|(_, routes)| routes.contains(&path))
        .map(|(method, _)| *method)
        .collect();
    allowed.push("OPTIONS");
    let mut answer = match *request.method() {
        Method::OPTIONS => StatusCode::OK.into_response(),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed").into_response(),
    };
    if let Ok(allowed) = HeaderValue::try_from(allowed.join(", ")) {
        answer.headers_mut().insert(header::ALLOW, allowed);
    }
    answer
}

/// The answer where there is no route.
pub fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "Not Found").into_response()
}

/// A route with the query of a request.
fn with_query(route: &str, asked: &Uri) -> Option<Uri> {
    let query = asked.query().map(|query| format!("?{query}"));
    format!("{route}{}", query.unwrap_or_default()).parse().ok()
}

/// A path without escapes, repeated slashes, `.` and `..`.
fn clean(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut left = path.as_bytes();
    while let [first, rest @ ..] = left {
        let escaped = rest
            .first_chunk::<2>()
            .filter(|_| *first == b'%')
            .and_then(|digits| {
                let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
                u8::try_from(high? << 4 | low?).ok()
            });
        bytes.push(escaped.unwrap_or(*first));
        left = if escaped.is_some() { &rest[2..] } else { rest };
    }
    let path = String::from_utf8_lossy(&bytes);
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        let rows = [
            ("//v1///models", "/v1/models"),
            ("/v1/./models/", "/v1/models/"),
            ("/v1/x/../models", "/v1/models"),
            ("/../../v1/models", "/v1/models"),
            ("/%761/model%73", "/v1/models"),
            ("/v1%2Fmodels", "/v1/models"),
            ("/%", "/%"),
            ("/%+1", "/%+1"),
            ("//", "/"),
            ("/", "/"),
        ];
        for (path, expected) in rows {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn every_route_is_listed() {
        let source = include_str!("mod.rs");
        let routes = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix(".route(\""));
        let mut listed = Vec::new();
        for line in routes {
            let (path, handlers) = line.split_once("\", ").unwrap();
            assert_eq!(handlers.contains("get("), GET.contains(&path), "{path}");
            assert_eq!(handlers.contains("post("), POST.contains(&path), "{path}");
            listed.push(path);
        }
        assert!(listed.len() > 20);
        assert!(GET.iter().chain(&POST).all(|path| listed.contains(path)));
    }
}
