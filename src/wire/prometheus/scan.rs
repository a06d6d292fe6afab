//! The scan: one pass over the lines of a page, a name comparison for each wanted family, and a full parse
//! only of the lines that carry one.

use memchr::{memchr, memrchr};

use super::labels::{Labels, block_len};
use super::{Compiled, Query, Winner};

/// The longest line a page may have when it arrives in pieces. Longer ones refuse the page, so that a page
/// without newlines cannot fill memory.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// A line of the page is longer than [`MAX_LINE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line of the page is longer than {MAX_LINE_BYTES} bytes")]
pub struct LineTooLong;

/// The series that answers a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hit {
    /// Its value; may be NaN or infinite.
    pub value: f64,
    /// Its timestamp as written (milliseconds in the classic format), 0 when there is none.
    pub timestamp: f64,
    found: bool,
    labels: Vec<u8>,
}

impl Hit {
    /// Its labels; empty unless the query keeps them.
    pub fn labels(&self) -> Labels<'_> {
        Labels::new(&self.labels)
    }

    fn beaten_by(&self, value: f64, timestamp: f64, winner: Winner) -> bool {
        match winner {
            Winner::Latest => !self.found || timestamp > self.timestamp,
            Winner::LargestValue if self.found => value > self.value,
            Winner::LargestValue => value > -1.0,
        }
    }
}

/// What a scan found. Reused from page to page: nothing is allocated after warm-up.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    hits: Vec<Hit>,
    malformed: usize,
    /// The line that the last piece left unfinished.
    carry: Vec<u8>,
}

/// Scans a whole page for `wanted`; a last line without a newline counts as a line.
pub fn scan(page: &[u8], wanted: &Compiled, out: &mut Readings) {
    out.begin(wanted);
    let (lines, last) = split_last_line(page);
    out.lines(wanted, lines);
    out.line(wanted, last);
}

impl Readings {
    /// Forgets the last page.
    pub fn begin(&mut self, wanted: &Compiled) {
        self.hits.resize_with(wanted.queries.len(), Hit::default);
        for hit in &mut self.hits {
            hit.found = false;
            hit.labels.clear();
        }
        self.malformed = 0;
        self.carry.clear();
    }

    /// Scans the next piece of the page.
    ///
    /// # Errors
    /// When a line grows beyond [`MAX_LINE_BYTES`]; the page must then be given up.
    pub fn feed(&mut self, wanted: &Compiled, mut piece: &[u8]) -> Result<(), LineTooLong> {
        if !self.carry.is_empty() {
            let Some(end) = memchr(b'\n', piece) else {
                return self.keep(piece);
            };
            self.keep(&piece[..end])?;
            let carry = std::mem::take(&mut self.carry);
            self.line(wanted, &carry);
            self.carry = carry;
            self.carry.clear();
            piece = &piece[end + 1..];
        }
        let (lines, last) = split_last_line(piece);
        self.lines(wanted, lines);
        self.keep(last)
    }

    /// Ends a page fed in pieces: scans a last line that had no newline. False when there was such a line,
    /// which is how a page cut short looks when nothing else marks its end.
    pub fn finish(&mut self, wanted: &Compiled) -> bool {
        let carry = std::mem::take(&mut self.carry);
        self.line(wanted, &carry);
        self.carry = carry;
        self.carry.is_empty()
    }

    /// The answer to query number `index`.
    pub fn get(&self, index: usize) -> Option<&Hit> {
        self.hits.get(index).filter(|hit| hit.found)
    }

    /// Lines of wanted families that could not be read, and were passed over.
    pub fn malformed(&self) -> usize {
        self.malformed
    }

    fn keep(&mut self, text: &[u8]) -> Result<(), LineTooLong> {
        if self.carry.len() + text.len() > MAX_LINE_BYTES {
            return Err(LineTooLong);
        }
        self.carry.extend_from_slice(text);
        Ok(())
    }

    /// Scans `text`, which ends with a newline or is empty.
    fn lines(&mut self, wanted: &Compiled, mut text: &[u8]) {
        while let Some(end) = memchr(b'\n', text) {
            self.line(wanted, &text[..end]);
            text = &text[end + 1..];
        }
    }

    #[inline]
    fn line(&mut self, wanted: &Compiled, mut line: &[u8]) {
        match line.first() {
            None | Some(b'#') => return,
            Some(b' ' | b'\t') => line = line.trim_ascii_start(),
            Some(_) => {}
        }
        for family in &wanted.families {
            let n = family.name.len();
            if matches!(line.get(n), Some(b'{' | b' ' | b'\t')) && line[..n] == *family.name {
                self.series(wanted, &family.queries, &line[n..]);
                return;
            }
        }
    }

    /// Reads the rest of a line after the name of a wanted family.
    fn series(&mut self, wanted: &Compiled, queries: &[usize], rest: &[u8]) {
        let Some(series) = Series::parse(rest) else {
            self.malformed += 1;
            return;
        };
        for &index in queries {
            let query = &wanted.queries[index];
            if matches(query, series.labels) {
                self.offer(index, query, &series);
            }
        }
    }

    fn offer(&mut self, index: usize, query: &Query, series: &Series<'_>) {
        let hit = &mut self.hits[index];
        if !hit.beaten_by(series.value, series.timestamp, query.winner) {
            return;
        }
        hit.found = true;
        hit.value = series.value;
        hit.timestamp = series.timestamp;
        if query.keep_labels {
            hit.labels.clear();
            hit.labels.extend_from_slice(series.labels);
        }
    }
}

/// Everything up to and including the last newline, and what follows it.
fn split_last_line(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(memrchr(b'\n', text).map_or(0, |n| n + 1))
}

fn matches(query: &Query, labels: &[u8]) -> bool {
    query
        .spec
        .labels
        .iter()
        .all(|(name, value)| Labels::new(labels).get(name).is_some_and(|found| found.is(value)))
}

struct Series<'a> {
    labels: &'a [u8],
    value: f64,
    timestamp: f64,
}

impl<'a> Series<'a> {
    /// Reads `[{labels}] value [timestamp] [# exemplar]`.
    fn parse(rest: &'a [u8]) -> Option<Self> {
        let rest = rest.trim_ascii();
        let (labels, rest) = match rest.strip_prefix(b"{") {
            Some(block) => {
                let len = block_len(block)?;
                (&block[..len], &block[len + 1..])
            }
            None => (&rest[..0], rest),
        };
        let mut words = rest
            .split(|b| matches!(b, b' ' | b'\t'))
            .filter(|word| !word.is_empty());
        let value = fast_float2::parse(words.next()?).ok()?;
        let timestamp = match words.next() {
            None | Some(b"#") => 0.0,
            Some(word) => {
                let timestamp = fast_float2::parse(word).ok()?;
                if words.next().is_some_and(|word| word != b"#") {
                    return None;
                }
                timestamp
            }
        };
        Some(Series {
            labels,
            value,
            timestamp,
        })
    }
}
