//! The query of `/debug/decisions`, strict: a mistyped filter must not look like an answer.

use axum::extract::Query;
use http::Uri;
use serde::Deserialize;

use crate::requestcontrol::record::{Record, cut};

/// Decisions told when no number is asked for.
const DEFAULT_DECISIONS: usize = 20;

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DecisionsQuery {
    /// Only of this model, before or after rewrites.
    model: Option<String>,
    /// Only those sent to this endpoint: its name, `namespace/name` or address.
    endpoint: Option<String>,
    /// Only this request.
    request_id: Option<String>,
    /// Decisions at most.
    n: Option<usize>,
    /// Candidates told of each profile at most, the best first.
    candidates: Option<usize>,
}

/// Reads the query of `uri`.
///
/// # Errors
/// What is wrong, and what there is.
pub fn read(uri: &Uri) -> Result<DecisionsQuery, String> {
    let query = Query::<DecisionsQuery>::try_from_uri(uri).map_err(|e| {
        format!("{e}\nthere are: model, endpoint, request-id, n (decisions), candidates (of each profile)\n")
    })?;
    Ok(query.0)
}

impl DecisionsQuery {
    /// Decisions at most.
    pub fn limit(&self) -> usize {
        self.n.unwrap_or(DEFAULT_DECISIONS)
    }

    /// Candidates of a profile at most.
    pub fn candidates(&self) -> usize {
        self.candidates.unwrap_or(usize::MAX)
    }

    /// Is this decision asked for?
    pub fn wants(&self, record: &Record) -> bool {
        let of_model = |m: &str| cut(m) == record.incoming_model || cut(m) == record.target_model;
        let sent_to = |name: &str| {
            record.target.as_ref().is_some_and(|e| {
                let spec = &e.spec;
                let full = name.split_once('/');
                *name == *spec.name
                    || *name == *e.authority
                    || full == Some((spec.namespace.as_str(), spec.name.as_str()))
            })
        };
        self.model.as_deref().is_none_or(of_model)
            && self.endpoint.as_deref().is_none_or(sent_to)
            && self
                .request_id
                .as_deref()
                .is_none_or(|id| cut(id) == record.request_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_filter_is_refused_and_what_is_decoded() {
        let read = |q: &str| read(&format!("/debug/decisions{q}").parse().unwrap());
        let query = read("?n=3&model=a%2Fb&request-id=x%20y&candidates=2").unwrap();
        assert_eq!((query.limit(), query.candidates()), (3, 2));
        assert_eq!(
            (query.model.as_deref(), query.request_id.as_deref()),
            (Some("a/b"), Some("x y"))
        );
        assert_eq!(read("").unwrap().limit(), DEFAULT_DECISIONS);
        for bad in ["?n=x", "?n=-1", "?modle=a", "?request_id=1"] {
            assert!(read(bad).is_err_and(|t| t.contains("request-id")), "{bad}");
        }
    }
}
