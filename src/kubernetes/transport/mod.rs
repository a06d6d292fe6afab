//! The way of a request to the API server and back. Every call has a deadline, every connection a sign of life: HTTP/2
//! connections are pinged, HTTP/1.1 watches are short, and TCP asks as well. A call that is not answered takes the
//! connections with it, so that the next one is made over a new connection.

mod body;
mod call;
mod connection;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::header::{HeaderValue, USER_AGENT};
use http::{Request, Response, Version};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use kube::{Config, Error};
use parking_lot::Mutex;
use tower_service::Service;

use super::contact::Contact;
use body::Heard;
use call::Call;
pub use call::WATCH_SECONDS;
use connection::Connector;

/// Time between two pings of an HTTP/2 connection.
const PING: Duration = Duration::from_secs(3);

/// Errors of the way.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A call was not answered in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", .0.as_secs())]
struct Unanswered(Duration);

/// Sends requests; a clone shares the connections.
#[derive(Clone)]
pub struct Transport(Arc<Shared>);

struct Shared {
    connector: Connector,
    /// Connections in use by new calls, and how often they were given up.
    pool: Mutex<(u64, Pool<Connector, Body>)>,
    contact: Arc<Contact>,
    agent: HeaderValue,
    /// Does the server speak HTTP/1.1 with us?
    http1: AtomicBool,
    /// Lists in a row that were not answered.
    slow: AtomicU32,
}

impl Transport {
    /// Connections to the server of `config`, telling `contact` of every word. Nothing is sent yet.
    ///
    /// # Errors
    /// The certificates of `config` cannot be used.
    pub fn new(config: &Config, contact: Arc<Contact>) -> Result<Self, Error> {
        let connector = Connector::new(config)?;
        let agent = concat!("endpoint-picker/", env!("CARGO_PKG_VERSION"));
        Ok(Transport(Arc::new(Shared {
            pool: Mutex::new((0, pool(&connector))),
            connector,
            contact,
            agent: HeaderValue::from_static(agent),
            http1: AtomicBool::new(config.cluster_url.scheme_str() == Some("http")),
            slow: AtomicU32::new(0),
        })))
    }
}

fn pool(connector: &Connector) -> Pool<Connector, Body> {
    Pool::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_while_idle(true)
        // The connection itself ends when nothing comes, and says so.
        .http2_keep_alive_timeout(2 * connection::SILENCE)
        .build(connector.clone())
}

impl Shared {
    /// Gives up the connections of pool `number`, unless somebody else has. Watches on them go on until they end.
    fn renew(&self, number: u64) {
        let mut pool = self.pool.lock();
        if pool.0 == number {
            *pool = (number + 1, self::pool(&self.connector));
        }
    }

    async fn send(self: Arc<Self>, mut request: Request<Body>) -> Result<Response<Heard>, BoxError> {
        let call = Call::of(&request);
        if call == Call::Watch && self.http1.load(Ordering::Relaxed) {
            call::shorten(&mut request);
        }
        request.headers_mut().insert(USER_AGENT, self.agent.clone());
        let patience = call.patience(self.slow.load(Ordering::Relaxed));
        let (number, pool) = self.pool.lock().clone();
        let Ok(answered) = tokio::time::timeout(patience, pool.request(request)).await else {
            self.renew(number);
            if call == Call::List {
                self.slow.fetch_add(1, Ordering::Relaxed);
            }
            return Err(Unanswered(patience).into());
        };
        let response = answered?;
        self.contact.heard();
        let http1 = response.version() < Version::HTTP_2;
        self.http1.store(http1, Ordering::Relaxed);
        if call == Call::List {
            self.slow.store(0, Ordering::Relaxed);
        }
        let limit = call.silence(http1, patience);
        let contact = self.contact.clone();
        Ok(response.map(|body| Heard::new(body, limit, call == Call::Watch, contact)))
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Heard>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.clone().send(request))
    }
}

#[cfg(test)]
mod tests;
