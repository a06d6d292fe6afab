//! F6: the director: from a request to a picked endpoint, and what is observed of its response. Knows nothing
//! of gRPC or Envoy: a front end gathers headers and body, asks an [`Exchange`] to route them, and tells it how
//! the response went.

mod avoid;
mod current;
mod director;
pub mod draw;
mod engaged;
mod exchange;
pub mod gather;
pub mod kept;
pub mod plan;
mod reach;
pub mod record;
mod routed;
pub mod streams;
mod subset;
mod trace;
mod workspace;

pub use current::CurrentDirector;
pub use director::{Director, DirectorParts};
pub use exchange::Exchange;
pub use plan::Plan;
pub use record::DecisionRing;
pub use routed::Routed;
