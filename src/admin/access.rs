//! Who may read the metrics port: a bearer token, reviewed. Called by `metrics_page` for every path it serves.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Full;

use super::answer::plain;

/// What a review of a bearer token came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The token's owner may read the page.
    Allowed,
    /// Nobody knows the token: 401.
    UnknownToken,
    /// The owner may not: 403.
    Denied {
        /// Name of the owner.
        user: String,
    },
    /// The question could not be asked: 503.
    Unreachable,
}

/// Decides who may read a page.
pub trait Reviewer: Send + Sync + 'static {
    /// Reviews `token` for `verb` (lower-case method) on `path`. Must end within a bounded time.
    fn review<'a>(&'a self, token: &'a str, verb: &'a str, path: &'a str) -> BoxFuture<'a, Verdict>;
}

/// How a token may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `Authorization: Bearer` only.
    Bearer,
    /// That, or as the password of `Basic`, which is what a browser can ask a person for.
    BearerOrPassword,
}

/// Lets a request through, or gives the refusal.
pub async fn review(
    reviewer: &dyn Reviewer,
    scheme: Scheme,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<(), Response<Full<Bytes>>> {
    let verdict = match token(headers, scheme) {
        Some(token) => {
            let verb = method.as_str().to_ascii_lowercase();
            reviewer.review(&token, &verb, path).await
        }
        None => Verdict::UnknownToken,
    };
    Err(match verdict {
        Verdict::Allowed => return Ok(()),
        Verdict::UnknownToken => unauthorized(scheme),
        Verdict::Denied { user } => {
            let text = format!("Authorization denied for user {user}\n");
            plain(StatusCode::FORBIDDEN, text)
        }
        Verdict::Unreachable => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "the access review API cannot be reached\n",
        ),
    })
}

fn unauthorized(scheme: Scheme) -> Response<Full<Bytes>> {
    let mut refused = plain(StatusCode::UNAUTHORIZED, "Unauthorized\n");
    let challenges = refused.headers_mut();
    challenges.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    if scheme == Scheme::BearerOrPassword {
        let basic = "Basic realm=\"epp: any user name, a token as the password\"";
        challenges.append(WWW_AUTHENTICATE, HeaderValue::from_static(basic));
    }
    refused
}

/// The token of `Authorization`, scheme in any case.
fn token(headers: &HeaderMap, allowed: Scheme) -> Option<String> {
    let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = match rest.trim() {
        token if scheme.eq_ignore_ascii_case("bearer") => token.to_owned(),
        pair if scheme.eq_ignore_ascii_case("basic") && allowed == Scheme::BearerOrPassword => {
            let pair = String::from_utf8(STANDARD.decode(pair).ok()?).ok()?;
            pair.split_once(':')?.1.trim().to_owned()
        }
        _ => return None,
    };
    (!token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_bearers_or_a_password() {
        let rows = [
            ("Bearer abc", Some("abc"), Some("abc")),
            ("bEARER  abc ", Some("abc"), Some("abc")),
            ("Bearer ", None, None),
            ("Basic dTphYmM=", None, Some("abc")),
            ("basic OmE6Yg==", None, Some("a:b")),
            ("Basic YWJj", None, None),
            ("Basic dTo=", None, None),
            ("Basic \u{7f}", None, None),
            ("Basic /w==", None, None),
            ("Digest abc", None, None),
        ];
        for (header, bearer, either) in rows {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_str(header) {
                headers.insert(AUTHORIZATION, value);
            }
            assert_eq!(token(&headers, Scheme::Bearer).as_deref(), bearer, "{header}");
            let got = token(&headers, Scheme::BearerOrPassword);
            assert_eq!(got.as_deref(), either, "{header}");
        }
    }
}
