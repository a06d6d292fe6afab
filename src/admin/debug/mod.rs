//! The explain pages below `/debug/`: the pool, the configuration, the plugins and the last decisions, as JSON and as one
//! page for people. Called by `metrics_page`. Nothing here shows a prompt or any other payload.

mod config;
mod decision;
mod decisions;
mod endpoints;
mod flip;
mod plugins;
mod query;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY};
use http::{Response, StatusCode, Uri};
use http_body_util::Full;
use serde_json::Value;

use super::answer::{page, plain};
use crate::base::clock::Clock;
use crate::datastore::Datastore;
use crate::model::active_config::ConfigState;
use crate::plugin::Registry;
use crate::requestcontrol::{DecisionRing, Plan};
use crate::telemetry::metrics::Metrics;

/// The page for people: one file, nothing from outside.
const PAGE: &str = include_str!("page.html");
/// Stands in [`PAGE`] where the nonce of its script and style goes.
const NONCE: &str = "NONCE";

/// A flag as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagValue {
    /// Its name.
    pub name: &'static str,
    /// Its value, as it would be written.
    pub value: String,
    /// Was it given on the command line?
    pub given: bool,
}

/// What the explain pages look at.
pub struct DebugPages {
    /// The pool.
    pub datastore: Arc<Datastore>,
    /// The last decisions.
    pub decisions: Arc<DecisionRing>,
    /// The configuration in force.
    pub config: Arc<ConfigState>,
    /// The plan of the director new requests get.
    pub plan: Box<dyn Fn() -> Arc<Plan> + Send + Sync>,
    /// Documentation of the plugin types.
    pub registry: Registry,
    /// Times of plugins.
    pub metrics: Arc<Metrics>,
    /// The clock decisions and samples are dated by.
    pub clock: Clock,
    /// The flags in force.
    pub flags: Vec<FlagValue>,
    /// Age from which a sample is called stale.
    pub stale_after: Duration,
}

impl DebugPages {
    /// Is `path` one of these pages?
    pub fn serves(&self, path: &str) -> bool {
        let pages = ["", "endpoints", "config", "plugins", "decisions"];
        path.strip_prefix("/debug/").is_some_and(|p| pages.contains(&p))
    }

    /// Answers a path that [`DebugPages::serves`], compressed if `gzip`.
    pub fn answer(&self, uri: &Uri, gzip: bool) -> Response<Full<Bytes>> {
        let body = match uri.path() {
            "/debug/endpoints" => text(&self.endpoints()),
            "/debug/config" => text(&self.config()),
            "/debug/plugins" => text(&self.plugins()),
            "/debug/decisions" => match query::read(uri) {
                Ok(query) => self.decisions(&query),
                Err(wrong) => return plain(StatusCode::BAD_REQUEST, wrong),
            },
            _ => return html(gzip),
        };
        secured(page(
            "application/json",
            body.into_bytes(),
            gzip,
            "Accept-Encoding",
        ))
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.clock.now(),
            wall: SystemTime::now(),
        }
    }
}

fn text(value: &Value) -> String {
    let mut text = value.to_string();
    text.push('\n');
    text
}

fn html(gzip: bool) -> Response<Full<Bytes>> {
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let text = PAGE.replace(NONCE, &nonce);
    let mut answer = page(
        "text/html; charset=utf-8",
        text.into_bytes(),
        gzip,
        "Accept-Encoding",
    );
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    secured(answer)
}

/// No other site reads it, no cache keeps it.
fn secured(mut answer: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let rows = [
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in rows {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Now, by the clock of decisions and by the wall.
#[derive(Clone, Copy, Debug)]
struct Moment {
    now: Instant,
    wall: SystemTime,
}

impl Moment {
    /// Seconds since `at`.
    fn age(&self, at: Instant) -> f64 {
        self.now.saturating_duration_since(at).as_secs_f64()
    }

    /// `at` in milliseconds since the Unix epoch.
    fn unix_ms(&self, at: Instant) -> u64 {
        unix_ms(self.wall - self.now.saturating_duration_since(at))
    }
}

fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
