//! One GET of a metrics page: streamed through the scan, limited in size, refused when incomplete. Called by
//! the poller, which limits its time.

use std::str::FromStr;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde::Deserialize;

use crate::wire::prometheus::{Compiled, LineTooLong, Readings};

/// How metrics pages are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Plain HTTP.
    #[default]
    Http,
    /// HTTP over TLS.
    Https,
}

/// A scheme other than `http` and `https`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unexpected scheme \"{0}\": it can only be 'http' or 'https'")]
pub struct ParseSchemeError(String);

impl FromStr for Scheme {
    type Err = ParseSchemeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "http" => Ok(Scheme::Http),
            "https" => Ok(Scheme::Https),
            _ => Err(ParseSchemeError(text.into())),
        }
    }
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// Why a page was not read. The text becomes the reason in the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// No connection, no TLS, no answer that is HTTP, or the body broke off.
    #[error("{}", chain(.0))]
    Transport(#[from] reqwest::Error),
    #[error("the answer has status {0}")]
    Status(StatusCode),
    #[error("the page is larger than {0} bytes")]
    TooLarge(usize),
    #[error(transparent)]
    Line(#[from] LineTooLong),
    #[error("the connection closed in the middle of a line")]
    CutShort,
}

/// An error and its causes in one line; the transport's own texts name only the outermost.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Fetches pages over connections that are kept open between scrapes.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    client: Client,
    max_page_bytes: usize,
}

impl Fetcher {
    /// A fetcher that keeps idle connections for `idle`.
    pub fn new(insecure: bool, max_page_bytes: usize, idle: Duration) -> Result<Self, reqwest::Error> {
        // Building a client panics without a process-wide TLS provider; a second installation is refused,
        // which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let accept = HeaderValue::from_static("text/plain;version=0.0.4");
        let client = Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(redirect::Policy::custom(same_origin))
            .referer(false)
            .default_headers(HeaderMap::from_iter([(ACCEPT, accept)]))
            .tls_danger_accept_invalid_certs(insecure)
            .pool_idle_timeout(idle)
            .build()?;
        Ok(Fetcher {
            client,
            max_page_bytes,
        })
    }

    /// Reads the page at `url` into `readings`. Dropping the future closes the connection.
    pub async fn fetch(
        &self,
        url: &Url,
        wanted: &Compiled,
        readings: &mut Readings,
    ) -> Result<(), FetchError> {
        readings.begin(wanted);
        let mut response = self.client.get(url.clone()).send().await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let limit = self.max_page_bytes;
        let too_large = || FetchError::TooLarge(limit);
        let announced = response.content_length().unwrap_or(0);
        if usize::try_from(announced).map_or(true, |n| n > limit) {
            return Err(too_large());
        }
        let framed = framed(&response);
        let mut left = limit;
        while let Some(piece) = response.chunk().await? {
            left = left.checked_sub(piece.len()).ok_or_else(too_large)?;
            readings.feed(wanted, &piece)?;
        }
        if readings.finish(wanted) || framed {
            Ok(())
        } else {
            Err(FetchError::CutShort)
        }
    }
}

/// Does the message itself say where it ends? Otherwise the end of the connection does.
fn framed(response: &Response) -> bool {
    let headers = response.headers();
    headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING)
}

/// Follows a redirect within the same server only: `/metrics` to `/metrics/` is common.
fn same_origin(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let same = attempt.previous().first().is_some_and(|from| {
        let to = attempt.url();
        from.scheme() == to.scheme()
            && from.host() == to.host()
            && from.port_or_known_default() == to.port_or_known_default()
    });
    if same && attempt.previous().len() <= 3 {
        attempt.follow()
    } else {
        attempt.stop()
    }
}
