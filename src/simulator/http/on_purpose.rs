//! Requests that fail on purpose (simulator.md §9, §14): because a header says so, or by chance. Called when
//! the body of a generating request has been read, before anything in it is looked at.

use axum::http::HeaderMap;

use crate::simulator::api::Refusal;
use crate::simulator::server::Simulator;

/// Names the status a request is to be answered with.
const RETURN_ERROR: &str = "x-return-error";

/// Does it fail?
///
/// # Errors
/// It does.
pub fn check(sim: &Simulator, headers: &HeaderMap) -> Result<(), Refusal> {
    if let Some(asked) = headers.get(RETURN_ERROR).filter(|v| !v.is_empty()) {
        return Err(of_header(asked.to_str().unwrap_or("?")));
    }
    sim.machine
        .fails()
        .map_or(Ok(()), |failure| Err(failure.refusal()))
}

fn of_header(asked: &str) -> Refusal {
    match asked.parse::<u16>() {
        Ok(code @ 400..=599) => Refusal::new(
            code,
            format!("Simulated error triggered by X-Return-Error header (code {code})"),
        ),
        Ok(_) => Refusal::new(
            400,
            format!("Invalid X-Return-Error header value {asked:?}: must be a status from 400 to 599"),
        ),
        Err(_) => Refusal::new(
            400,
            format!("Invalid X-Return-Error header value {asked:?}: must be an integer"),
        ),
    }
}
