//! `/debug/decisions`: the last decisions, newest first, each explained.

use std::fmt::Write as _;

use super::query::DecisionsQuery;
use super::{DebugPages, decision};

/// An answer longer than this many bytes leaves older decisions off.
const MAX_BYTES: usize = 8 << 20;

impl DebugPages {
    /// The page, written decision by decision: a large pool's would be large as a whole.
    pub(super) fn decisions(&self, query: &DecisionsQuery) -> String {
        let moment = self.moment();
        let ring = &self.decisions;
        let mut text = String::from("{\"decisions\":[");
        let (mut told, mut cut) = (0, false);
        for record in ring.newest(|r| query.wants(r)).take(query.limit()) {
            if text.len() > MAX_BYTES {
                cut = true;
                break;
            }
            if told > 0 {
                text.push(',');
            }
            let shown = decision::explained(&record, query.candidates(), moment);
            let _ = write!(text, "{shown}");
            told += 1;
        }
        let (kept, made, missed) = (ring.capacity(), ring.made(), ring.missed());
        let _ = writeln!(
            text,
            "],\"told\":{told},\"cut_short\":{cut},\"kept\":{kept},\"made\":{made},\"missed\":{missed}}}"
        );
        text
    }
}
