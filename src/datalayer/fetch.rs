//! GETs of one endpoint's metrics page: streamed through the scan, limited in size, refused when incomplete. Called by
//! the poller, which limits their time.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, HOST, LOCATION, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::Empty;
use hyper::body::Incoming;
use reqwest::Url;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio_rustls::TlsConnector;

use crate::model::health::Evidence;
use crate::wire::prometheus::{Compiled, LineTooLong, Readings};

use super::connection::{Connection, HEAD_BYTES, Meter, OpenError, Tls};

/// Redirects followed within the server; `/metrics` to `/metrics/` is common.
const MAX_REDIRECTS: usize = 3;

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
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("no TLS: {0}")]
    Tls(io::Error),
    /// No answer that is HTTP, or the answer broke off.
    #[error("{}", chain(.0))]
    Exchange(#[from] hyper::Error),
    #[error("the request cannot be written: {0}")]
    Request(#[from] http::Error),
    #[error("the answer has status {0}")]
    Status(StatusCode),
    #[error("the answer redirects elsewhere, or too often")]
    Redirect,
    #[error("the page is larger than {0} bytes")]
    TooLarge(usize),
    #[error(transparent)]
    Line(#[from] LineTooLong),
    #[error("the connection closed in the middle of a line")]
    CutShort,
}

impl From<OpenError> for FetchError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Connect(e) => FetchError::Connect(e),
            OpenError::Tls(e) => FetchError::Tls(e),
            OpenError::Http(e) => FetchError::Exchange(e),
        }
    }
}

/// What a failure to connect says about the one connected to; `None` when it is a failure of ours.
pub(super) fn connect_evidence(error: &io::Error) -> Option<Evidence> {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable => Some(Evidence::Refused),
        ErrorKind::TimedOut | ErrorKind::NetworkUnreachable => Some(Evidence::Unreachable),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Some(Evidence::Unanswered),
        // No descriptors, no ports, no permission.
        _ => None,
    }
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

/// The metrics page of one endpoint, and the connection that is kept open to it.
pub(super) struct Page {
    address: SocketAddr,
    url: Url,
    tls: Option<Tls>,
    max_bytes: usize,
    meter: Arc<Meter>,
    connection: Option<Connection>,
}

impl Page {
    /// The page at `url`, of the server at `address`; `connector` where its scheme is `https`.
    pub fn new(address: SocketAddr, url: Url, connector: Option<&TlsConnector>, max_bytes: usize) -> Self {
        Page {
            address,
            url,
            tls: connector.map(|connector| Tls {
                connector: connector.clone(),
                name: ServerName::IpAddress(address.ip().into()),
            }),
            max_bytes,
            meter: Arc::default(),
            connection: None,
        }
    }

    /// Reads the page into `readings`. Dropping the future closes the connection.
    pub async fn fetch(&mut self, wanted: &Compiled, readings: &mut Readings) -> Result<(), FetchError> {
        self.meter.begin();
        readings.begin(wanted);
        let kept = self.connection.take();
        let (mut connection, mut answer) = self.get(kept, &self.url).await?;
        let mut url = self.url.clone();
        for _ in 0..MAX_REDIRECTS {
            let Some(next) = redirected(&url, &answer)? else {
                break;
            };
            // An answer with a body is not read to its end for the sake of the connection.
            let kept = answer.body().is_end_stream().then_some(connection);
            (connection, answer) = self.get(kept, &next).await?;
            url = next;
        }
        if redirected(&url, &answer)?.is_some() {
            return Err(FetchError::Redirect);
        }
        let read = self.read(&mut connection, answer, wanted, readings).await;
        // After an error its bytes may be in the middle of something.
        if matches!(read, Ok(()) | Err(FetchError::Status(_))) {
            self.connection = Some(connection);
        }
        read
    }

    /// Sends a GET over `kept`, or over a new connection where there is none or the server has closed it.
    async fn get(
        &self,
        kept: Option<Connection>,
        url: &Url,
    ) -> Result<(Connection, Response<Incoming>), FetchError> {
        self.meter.allow(HEAD_BYTES);
        if let Some(mut connection) = kept
            && connection.usable().await
        {
            self.meter.connect();
            match connection.send(self.request(url)?).await {
                Ok(answer) => return Ok((connection, answer)),
                // Closed by the server just as the request was under way.
                Err(_) if !self.meter.heard() => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.meter.allow(HEAD_BYTES);
        let mut connection = Connection::open(self.address, self.tls.as_ref(), &self.meter).await?;
        let answer = connection.send(self.request(url)?).await?;
        Ok((connection, answer))
    }

    fn request(&self, url: &Url) -> Result<Request<Empty<Bytes>>, http::Error> {
        let query = url.query().map(|q| format!("?{q}")).unwrap_or_default();
        Request::get(format!("{}{query}", url.path()))
            .header(HOST, self.address.to_string())
            .header(ACCEPT, "text/plain;version=0.0.4")
            .body(Empty::new())
    }

    async fn read(
        &self,
        connection: &mut Connection,
        answer: Response<Incoming>,
        wanted: &Compiled,
        readings: &mut Readings,
    ) -> Result<(), FetchError> {
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let limit = self.max_bytes;
        let too_large = || FetchError::TooLarge(limit);
        let announced = answer.body().size_hint().exact().unwrap_or(0);
        if usize::try_from(announced).map_or(true, |n| n > limit) {
            return Err(too_large());
        }
        // Chunks have heads of their own; a page of nothing but tiny ones is not worth reading.
        self.meter
            .allow(limit.saturating_mul(2).saturating_add(HEAD_BYTES));
        let framed = framed(&answer);
        let mut body = answer.into_body();
        let mut left = limit;
        while let Some(piece) = connection.piece(&mut body).await? {
            left = left.checked_sub(piece.len()).ok_or_else(too_large)?;
            readings.feed(wanted, &piece)?;
        }
        if readings.finish(wanted) || framed {
            Ok(())
        } else {
            Err(FetchError::CutShort)
        }
    }

    /// What a fetch that ended in `error`, or in none, says about the server.
    pub fn evidence(&self, error: Option<&FetchError>) -> Option<Evidence> {
        match error {
            // Whatever it says: it is there to say it.
            _ if self.meter.heard() => Some(Evidence::Answered),
            Some(FetchError::Connect(error)) => connect_evidence(error),
            Some(FetchError::Request(_)) => None,
            _ => Some(Evidence::Unanswered),
        }
    }

    /// What a fetch that did not end in time says about the server.
    pub fn late_evidence(&self) -> Evidence {
        match (self.meter.heard(), self.meter.connected()) {
            (true, _) => Evidence::Answered,
            (false, true) => Evidence::Unanswered,
            (false, false) => Evidence::Unreachable,
        }
    }
}

/// Does the message itself say where it ends? Otherwise the end of the connection does.
fn framed(answer: &Response<Incoming>) -> bool {
    let headers = answer.headers();
    headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING)
}

/// Where within the same server `answer` to a GET of `url` redirects; `None` when it does not redirect.
///
/// # Errors
/// It redirects to another server, or to nothing that can be read.
fn redirected(url: &Url, answer: &Response<Incoming>) -> Result<Option<Url>, FetchError> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
    let next = location.and_then(|l| url.join(l).ok());
    match next.filter(|next| next.origin() == url.origin()) {
        Some(next) => Ok(Some(next)),
        None => Err(FetchError::Redirect),
    }
}
