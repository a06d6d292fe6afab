//! `/admin/config` and the older `/fake_metrics`: settings of a running simulator (simulator.md §14).

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::generate::{json, refuse};
use super::{Shared, body};
use crate::simulator::api::Refusal;
use crate::simulator::control::Fields;
use crate::simulator::server::Simulator;

/// Largest change, bytes.
const MAX_CHANGE: usize = 1 << 20;

/// `GET /admin/config`: the settings now.
pub async fn show(State(sim): Shared) -> Response {
    answer(sim.machine.configuration(), 500)
}

/// `POST /admin/config`: changes; the settings then.
pub async fn change(State(sim): Shared, request: Request<Body>) -> Response {
    match fields(&sim, request).await {
        Ok(Ok(fields)) => {
            let changed = sim.machine.change(&fields);
            if changed.is_ok() {
                let names: Vec<&String> = fields.keys().collect();
                tracing::info!(port = sim.config.port, ?names, "Settings have changed");
            }
            answer(changed, 400)
        }
        Ok(Err(wrong)) => answer(Err(wrong), 400),
        Err(refusal) => refuse(&refusal),
    }
}

/// `POST /fake_metrics`: changes of made-up metrics alone.
pub async fn change_metrics(State(sim): Shared, request: Request<Body>) -> Response {
    let fields = match fields(&sim, request).await {
        Ok(fields) => fields,
        Err(refusal) => return refuse(&refusal),
    };
    let changed = fields.and_then(|metrics| {
        let fields = Fields::from_iter([("fake-metrics".to_owned(), Value::Object(metrics))]);
        sim.machine.change(&fields)
    });
    match changed {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(wrong) => refuse(&Refusal::new(
            500,
            format!("Failed to update fake metrics: {wrong}"),
        )),
    }
}

/// The object in a request's body, or what is wrong with it.
async fn fields(sim: &Simulator, request: Request<Body>) -> Result<Result<Fields, String>, Refusal> {
    let (head, sent) = request.into_parts();
    let whole = body::read_within(sim, MAX_CHANGE, &head.headers, sent).await?;
    let fields = whole.json();
    Ok(fields.map_err(|e| format!("failed to unmarshal payload: {e}")))
}

fn answer(shown: Result<Fields, String>, wrong: u16) -> Response {
    match shown {
        Ok(shown) => json(StatusCode::OK, Value::Object(shown).to_string()),
        Err(text) => refuse(&Refusal::new(wrong, text)),
    }
}
