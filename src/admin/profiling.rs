//! `/debug/pprof/`: a CPU profile in the format of `go tool pprof`, and an honest 501 for the profiles a Rust process
//! cannot give. Called by `metrics_page`.
//!
//! Stacks are walked by the unwind tables in the signal handler of the profiler. That takes no lock with glibc 2.35 and
//! GCC 12's library or newer; code of that library itself is not sampled, it may be unwinding already.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use pprof::protos::Message;
use pprof::{ProfilerGuard, ProfilerGuardBuilder};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::answer::{compress, plain, respond};

/// Where profiles are.
pub const PREFIX: &str = "/debug/pprof/";

/// Length of a profile when none is asked for, seconds; Go's.
const DEFAULT_SECONDS: u64 = 30;
/// Longest profile, seconds; shorter than the life of a connection.
const MAX_SECONDS: u64 = 120;
/// Samples per second of CPU time; Go's.
const FREQUENCY: i32 = 100;

/// Profiles of Go's runtime, and why there is none.
const NOT_HERE: [(&str, &str); 8] = [
    ("heap", ALLOCATOR),
    ("allocs", ALLOCATOR),
    (
        "goroutine",
        "there are no goroutines; threads are named in the CPU profile",
    ),
    (
        "threadcreate",
        "threads are made at the start only: --threads workers and one control thread",
    ),
    (
        "block",
        "waiting is not sampled; the request path takes no lock that it waits for",
    ),
    (
        "mutex",
        "waiting is not sampled; the request path takes no lock that it waits for",
    ),
    (
        "trace",
        "there is no execution trace; --tracing gives spans of every request",
    ),
    ("cmdline", "the flags in force are at /debug/config"),
];
const ALLOCATOR: &str = "the allocator does not record where memory was taken; its size is process_resident_memory_bytes at /metrics";

/// The profiler; the process has one, so there is one profile at a time.
#[derive(Debug)]
pub struct Profiling {
    running: Semaphore,
}

impl Default for Profiling {
    fn default() -> Self {
        Profiling {
            running: Semaphore::new(1),
        }
    }
}

impl Profiling {
    /// Answers `path` (with [`PREFIX`]) and its query.
    pub async fn answer(self: Arc<Self>, path: &str, query: &str) -> Response<Full<Bytes>> {
        let name = path.strip_prefix(PREFIX).unwrap_or(path);
        if name == "profile" {
            return match seconds(query) {
                Ok(length) => self.profile(length).await,
                Err(text) => plain(StatusCode::BAD_REQUEST, text),
            };
        }
        if name.is_empty() {
            return plain(StatusCode::OK, index());
        }
        match NOT_HERE.iter().find(|(n, _)| *n == name) {
            Some((_, why)) => plain(StatusCode::NOT_IMPLEMENTED, format!("no {name} profile: {why}\n")),
            None => plain(StatusCode::NOT_FOUND, format!("no such profile\n{}", index())),
        }
    }

    /// Samples for `length`. A client that leaves ends the sampling.
    async fn profile(&self, length: Duration) -> Response<Full<Bytes>> {
        let Ok(_one) = self.running.try_acquire() else {
            let text = "a profile is being taken; there is one at a time\n";
            return plain(StatusCode::CONFLICT, text);
        };
        let profiler = ProfilerGuardBuilder::default()
            .frequency(FREQUENCY)
            .blocklist(&["libgcc"]);
        let guard = match profiler.build() {
            Ok(guard) => guard,
            Err(error) => return failed(&error),
        };
        tracing::info!(seconds = length.as_secs(), "Profiling");
        tokio::time::sleep(length).await;
        finish(guard, _one).await
    }
}

/// Names of functions are looked up off this thread: that takes a while.
async fn finish(guard: ProfilerGuard<'static>, _one: SemaphorePermit<'_>) -> Response<Full<Bytes>> {
    let encoded = tokio::task::spawn_blocking(move || encode(&guard)).await;
    let packed = match encoded {
        Ok(Ok(packed)) => packed,
        Ok(Err(error)) => return failed(&error),
        Err(error) => return failed(&error),
    };
    let mut response = respond(StatusCode::OK, "application/octet-stream", packed.into());
    let name = HeaderValue::from_static("attachment; filename=\"profile\"");
    response.headers_mut().insert(CONTENT_DISPOSITION, name);
    response
}

fn encode(guard: &ProfilerGuard<'_>) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let profile = guard.report().build()?.pprof()?;
    Ok(compress(&profile.write_to_bytes()?)?)
}

fn failed(error: &dyn std::fmt::Display) -> Response<Full<Bytes>> {
    let text = format!("the profile could not be taken: {error}\n");
    plain(StatusCode::INTERNAL_SERVER_ERROR, text)
}

fn index() -> String {
    let mut text = format!(
        "{PREFIX}profile?seconds=30  CPU profile, 1 to {MAX_SECONDS} seconds: go tool pprof <address>{PREFIX}profile\n"
    );
    for (name, why) in NOT_HERE {
        text.push_str(&format!("{PREFIX}{name}  not here: {why}\n"));
    }
    text
}

/// The length asked for. Other parameters are ignored, as Go does.
fn seconds(query: &str) -> Result<Duration, String> {
    let given = query.split('&').find_map(|p| p.strip_prefix("seconds="));
    match given.map(str::parse::<u64>) {
        None => Ok(Duration::from_secs(DEFAULT_SECONDS)),
        Some(Ok(n)) if (1..=MAX_SECONDS).contains(&n) => Ok(Duration::from_secs(n)),
        Some(_) => Err(format!(
            "seconds must be a whole number from 1 to {MAX_SECONDS}\n"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_profile_is_bounded() {
        let rows = [
            ("", Some(30)),
            ("seconds=1", Some(1)),
            ("debug=1&seconds=120", Some(120)),
            ("seconds=0", None),
            ("seconds=121", None),
            ("seconds=", None),
            ("seconds=-1", None),
            ("seconds=x", None),
        ];
        for (query, expected) in rows {
            let got = seconds(query).ok().map(|d| d.as_secs());
            assert_eq!(got, expected, "{query}");
        }
    }
}
