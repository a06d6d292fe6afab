//! Reads request bodies: limited in size, in time, and in how many large ones are in memory at once.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use crate::simulator::api::{Refusal, lenient};
use crate::simulator::server::Simulator;

/// A body larger than this takes a place among the large ones.
const LARGE: usize = 1 << 20;

/// Longest wait for a whole body.
const WHOLE: Duration = Duration::from_secs(120);

/// Longest wait for more of a body.
const MORE: Duration = Duration::from_secs(30);

/// Of a body that is too large, as much is read and thrown away, so that the sender sees the answer.
const THROWN_AWAY: usize = 256 << 20;

/// A whole body; its place among the large ones is free when it is dropped.
pub struct Whole {
    bytes: Bytes,
    _place: Option<OwnedSemaphorePermit>,
}

impl Whole {
    /// The body as JSON, by the rules of Go's `encoding/json`.
    ///
    /// # Errors
    /// It is none, or of another shape; the text says where.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        lenient::read(&self.bytes)
    }

    /// The body; its place is free once the bytes are dropped.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body.
///
/// # Errors
/// 413 when it is too large, 408 when it comes too slowly, 400 when it breaks off.
pub async fn read(sim: &Simulator, headers: &HeaderMap, body: Body) -> Result<Whole, Refusal> {
    read_within(sim, sim.config.max_body, headers, body).await
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// As those of [`read`].
pub async fn read_within(
    sim: &Simulator,
    limit: usize,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Whole, Refusal> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let deadline = Instant::now() + WHOLE;
    let slow = |_| Refusal::new(408, "the request body did not come in time");
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(limit).min(LARGE));
    let mut place = None;
    let mut too_large = announced.is_some_and(|n| n > limit);
    let mut thrown = 0;
    while let Some(frame) = timeout_at(deadline, next(&mut body))
        .await
        .map_err(slow)?
        .transpose()?
    {
        too_large |= bytes.len() + frame.len() > limit;
        if too_large {
            (bytes, place) = (Vec::new(), None);
            thrown += frame.len();
            if thrown > THROWN_AWAY {
                break;
            }
            continue;
        }
        if place.is_none() && bytes.len() + frame.len() > LARGE {
            let places = sim.large_bodies.clone();
            let free = timeout_at(deadline, places.acquire_owned()).await.map_err(slow)?;
            place = free.ok();
        }
        bytes.extend_from_slice(&frame);
    }
    if too_large {
        return Err(Refusal::new(
            413,
            format!("request body is larger than {limit} bytes"),
        ));
    }
    Ok(Whole {
        bytes: bytes.into(),
        _place: place,
    })
}

/// The next bytes of a body.
async fn next(body: &mut Body) -> Option<Result<Bytes, Refusal>> {
    loop {
        let frame = match timeout(MORE, body.frame()).await {
            Ok(frame) => frame?,
            Err(_) => return Some(Err(Refusal::new(408, "the request body stopped coming"))),
        };
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(bytes) => return Some(Ok(bytes)),
                // Trailers say nothing here.
                Err(_) => continue,
            },
            Err(e) => return Some(Err(Refusal::new(400, format!("the request body broke off: {e}")))),
        }
    }
}
