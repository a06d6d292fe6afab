//! Kinds of calls, and how long each may take.

use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, Request, Uri};

/// Longest a watch may last, in seconds: what keeps a connection open without passing anything on is noticed after it.
pub const WATCH_SECONDS: u32 = 60;

/// The same over HTTP/1.1, which has no ping.
const SHORT_WATCH_SECONDS: u32 = 10;

/// How much later than it was asked to a server may end a watch.
const LATE: Duration = Duration::from_secs(2);

/// Longest wait for a list and for the start of a watch; doubled for each list in a row that was not answered, three times
/// at most, for a server that is busy rather than gone.
const LIST: (Duration, u32) = (Duration::from_secs(10), 3);

/// Longest wait for anything else. A leader tries to renew for ten seconds: two such waits leave time for a third try.
const SINGLE: Duration = Duration::from_secs(4);

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Changes, as they happen.
    Watch,
    /// All objects, or a page of them.
    List,
    /// One object read or written, a review, a word.
    Single,
}

impl Call {
    /// The kind of a request.
    pub fn of<B>(request: &Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let has = |name: &str| query.split('&').any(|p| p.split('=').next() == Some(name));
        if request.method() != Method::GET {
            Call::Single
        } else if has("watch") {
            Call::Watch
        } else if has("limit") {
            Call::List
        } else {
            Call::Single
        }
    }

    /// Longest wait for the head of the answer, after `unanswered` lists in a row.
    pub fn patience(self, unanswered: u32) -> Duration {
        match self {
            Call::Watch => LIST.0,
            Call::List => LIST.0 * 2_u32.pow(unanswered.min(LIST.1)),
            Call::Single => SINGLE,
        }
    }

    /// Longest pause within the body of the answer.
    pub fn silence(self, http1: bool, patience: Duration) -> Duration {
        let seconds = if http1 { SHORT_WATCH_SECONDS } else { WATCH_SECONDS };
        match self {
            Call::Watch => Duration::from_secs(seconds.into()) + LATE,
            Call::List | Call::Single => patience,
        }
    }
}

/// Has the server end a watch soon, by its `timeoutSeconds`.
pub fn shorten<B>(request: &mut Request<B>) {
    let Some(query) = request.uri().query() else {
        return;
    };
    let others = query.split('&').filter(|p| !p.starts_with("timeoutSeconds="));
    let others = others.collect::<Vec<_>>().join("&");
    let path = request.uri().path();
    let shortened = format!("{path}?{others}&timeoutSeconds={SHORT_WATCH_SECONDS}");
    let mut parts = request.uri().clone().into_parts();
    if let Ok(shortened) = shortened.parse::<PathAndQuery>() {
        parts.path_and_query = Some(shortened);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(uri: &str) -> Request<()> {
        Request::get(uri).body(()).unwrap()
    }

    #[test]
    fn a_request_is_told_by_its_method_and_query() {
        for (uri, kind) in [
            (
                "http://s/api/v1/namespaces/n/pods?limit=500&labelSelector=a%3Db",
                Call::List,
            ),
            (
                "http://s/api/v1/namespaces/n/pods?&watch=true&timeoutSeconds=60",
                Call::Watch,
            ),
            ("http://s/apis/g/v1/namespaces/n/leases/limit?", Call::Single),
            ("http://s/version", Call::Single),
        ] {
            assert_eq!(Call::of(&get(uri)), kind, "{uri}");
        }
        let post = Request::post("http://s/api/v1/namespaces/n/events?limit=1");
        assert_eq!(Call::of(&post.body(()).unwrap()), Call::Single);
    }

    #[test]
    fn lists_that_are_not_answered_are_waited_for_longer() {
        let seconds = |n| Call::List.patience(n).as_secs();
        assert_eq!([0, 1, 2, 3, 9].map(seconds), [10, 20, 40, 80, 80]);
        assert_eq!(Call::Single.patience(9).as_secs(), 4);
        assert_eq!(Call::Watch.patience(9).as_secs(), 10);
    }

    #[test]
    fn a_watch_is_shortened_in_its_query_alone() {
        let mut request = get("http://s:80/api/v1/pods?timeoutSeconds=60&watch=true&resourceVersion=7");
        shorten(&mut request);
        let expected = "http://s:80/api/v1/pods?watch=true&resourceVersion=7&timeoutSeconds=10";
        assert_eq!(request.uri().to_string(), expected);
    }
}
