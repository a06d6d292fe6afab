//! Metrics pages in the Prometheus text format, read selectively: only the few series the poller wants are
//! parsed, every other line is skipped at the speed of a newline search. Called by `datalayer`; knows
//! neither sockets nor what a metric means.
//!
//! A page may arrive in pieces: [`Readings::begin`], [`Readings::feed`] for each piece, [`Readings::finish`].
//! [`fn@scan`] does all three for a page that is whole. Nothing of the page is kept but the winning series.

mod labels;
mod scan;
mod spec;

#[cfg(test)]
mod tests;

pub use labels::{Labels, Value};
pub use scan::{Hit, LineTooLong, MAX_LINE_BYTES, Readings, scan};
pub use spec::{MetricSpec, SpecError};

/// Which of several matching series is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Winner {
    /// The one with the largest timestamp (none counts as 0); the first of equals.
    Latest,
    /// The one with the largest value above -1; the first of equals. For series whose value is a creation
    /// time, as in LoRA information.
    LargestValue,
}

/// One series wanted from a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Family and labels.
    pub spec: MetricSpec,
    /// The choice among several.
    pub winner: Winner,
    /// Are the labels of the winner kept, to be read with [`Hit::labels`]?
    pub keep_labels: bool,
}

/// Queries made ready for scanning: grouped by family, so that a line is compared with each name once.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    queries: Vec<Query>,
    families: Vec<Family>,
}

#[derive(Clone, Debug)]
struct Family {
    name: Box<[u8]>,
    /// Indices of the queries on this family.
    queries: Vec<usize>,
}

impl Compiled {
    /// Prepares `queries`; a query keeps its position as its index in [`Readings::get`].
    pub fn new(queries: Vec<Query>) -> Self {
        let mut families: Vec<Family> = Vec::new();
        for (index, query) in queries.iter().enumerate() {
            let name = query.spec.name.as_bytes();
            match families.iter_mut().find(|f| &*f.name == name) {
                Some(family) => family.queries.push(index),
                None => families.push(Family {
                    name: name.into(),
                    queries: vec![index],
                }),
            }
        }
        Compiled { queries, families }
    }

    /// The queries, in the order given.
    pub fn queries(&self) -> &[Query] {
        &self.queries
    }
}
