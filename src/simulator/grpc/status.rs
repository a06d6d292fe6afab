//! A refusal as gRPC says it (simulator.md §13).

use tonic::{Code, Status};

use crate::simulator::api::Refusal;

/// The status a refused call ends with.
pub fn of(refusal: &Refusal) -> Status {
    Status::new(code(refusal.status), &refusal.message)
}

/// The code that stands for a status of HTTP.
fn code(status: u16) -> Code {
    match status {
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::Aborted,
        413 | 429 => Code::ResourceExhausted,
        500 => Code::Internal,
        501 => Code::Unimplemented,
        503 => Code::Unavailable,
        408 | 504 => Code::DeadlineExceeded,
        _ => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_http_status_has_its_code() {
        let rows = [
            (400, Code::InvalidArgument),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::NotFound),
            (408, Code::DeadlineExceeded),
            (409, Code::Aborted),
            (413, Code::ResourceExhausted),
            (418, Code::Unknown),
            (429, Code::ResourceExhausted),
            (500, Code::Internal),
            (501, Code::Unimplemented),
            (503, Code::Unavailable),
            (504, Code::DeadlineExceeded),
        ];
        for (status, expected) in rows {
            let told = of(&Refusal::new(status, "why"));
            assert_eq!((told.code(), told.message()), (expected, "why"), "{status}");
        }
    }
}
