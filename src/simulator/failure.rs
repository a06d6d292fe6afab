//! Requests that fail on purpose (simulator.md §9). Drawn before a request is checked; it touches no metric and no
//! queue.

use rand::{Rng, RngExt};

use super::api::Refusal;

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 429.
    RateLimit,
    /// 401.
    InvalidApiKey,
    /// 400, of the context length.
    ContextLength,
    /// 503.
    ServerError,
    /// 400, of a missing parameter.
    InvalidRequest,
    /// 404.
    ModelNotFound,
}

/// What a failed request is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status.
    pub status: u16,
    /// Message.
    pub message: String,
    /// The parameter it names.
    pub param: Option<&'static str>,
}

impl Failure {
    /// The same, as every other refused request is told.
    pub fn refusal(self) -> Refusal {
        Refusal {
            param: self.param,
            ..Refusal::new(self.status, self.message)
        }
    }
}

/// How many requests fail, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Percent of requests, 0 to 100.
    pub rate: u8,
    /// Kinds to choose from; empty: all.
    pub kinds: Vec<Kind>,
}

impl Kind {
    /// Every kind, by name.
    pub const ALL: [(&'static str, Kind); 6] = [
        ("rate_limit", Kind::RateLimit),
        ("invalid_api_key", Kind::InvalidApiKey),
        ("context_length", Kind::ContextLength),
        ("server_error", Kind::ServerError),
        ("invalid_request", Kind::InvalidRequest),
        ("model_not_found", Kind::ModelNotFound),
    ];

    /// The kind of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn parse(name: &str) -> Result<Kind, String> {
        let known = Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, kind)| *kind);
        known.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(n, _)| *n).collect();
            format!(
                "invalid failure type '{name}', valid types are: {}",
                names.join(", ")
            )
        })
    }

    /// What a request for the model of this name is told.
    pub fn failure(self, model: &str) -> Failure {
        let (status, message, param) = match self {
            Kind::RateLimit => (
                429,
                format!(
                    "Rate limit reached for {model} in organization org-xxx on requests per min (RPM): Limit 3, Used 3, Requested 1."
                ),
                None,
            ),
            Kind::InvalidApiKey => (401, "Incorrect API key provided.".to_owned(), None),
            Kind::ContextLength => (
                400,
                "This model's maximum context length is 4096 tokens. However, your messages resulted in 4500 tokens."
                    .to_owned(),
                Some("messages"),
            ),
            Kind::ServerError => (503, "The server is overloaded or not ready yet.".to_owned(), None),
            Kind::InvalidRequest => (
                400,
                "Invalid request: missing required parameter 'model'.".to_owned(),
                Some("model"),
            ),
            Kind::ModelNotFound => (
                404,
                format!("The model '{model}-nonexistent' does not exist"),
                Some("model"),
            ),
        };
        Failure {
            status,
            message,
            param,
        }
    }
}

impl Failures {
    /// Does the next request fail, and how?
    pub fn draw(&self, rng: &mut impl Rng) -> Option<Kind> {
        if rng.random_range(1..=100) > self.rate {
            return None;
        }
        if self.kinds.is_empty() {
            return Some(Kind::ALL[rng.random_range(0..Kind::ALL.len())].1);
        }
        Some(self.kinds[rng.random_range(0..self.kinds.len())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn the_rate_decides_how_many_fail() {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut failed = |rate| {
            let failures = Failures {
                rate,
                kinds: Vec::new(),
            };
            (0..2000).filter(|_| failures.draw(&mut rng).is_some()).count()
        };
        assert_eq!((failed(0), failed(100)), (0, 2000));
        assert!((800..1200).contains(&failed(50)));
    }

    #[test]
    fn each_kind_has_its_status_message_and_parameter() {
        let rows = [
            (
                "rate_limit",
                429,
                "Rate limit reached for m in organization",
                None,
            ),
            ("invalid_api_key", 401, "Incorrect API key provided.", None),
            (
                "context_length",
                400,
                "This model's maximum context length is 4096 tokens.",
                Some("messages"),
            ),
            (
                "server_error",
                503,
                "The server is overloaded or not ready yet.",
                None,
            ),
            (
                "invalid_request",
                400,
                "Invalid request: missing required parameter 'model'.",
                Some("model"),
            ),
            (
                "model_not_found",
                404,
                "The model 'm-nonexistent' does not exist",
                Some("model"),
            ),
        ];
        let mut rng = SmallRng::seed_from_u64(4);
        for (name, status, message, param) in rows {
            let failures = Failures {
                rate: 100,
                kinds: vec![Kind::parse(name).unwrap()],
            };
            let failure = failures.draw(&mut rng).unwrap().failure("m");
            assert_eq!((failure.status, failure.param), (status, param), "{name}");
            assert!(failure.message.starts_with(message), "{name}");
        }
        let error = Kind::parse("boom").unwrap_err();
        assert_eq!(
            error,
            "invalid failure type 'boom', valid types are: rate_limit, invalid_api_key, context_length, \
             server_error, invalid_request, model_not_found"
        );
    }
}
