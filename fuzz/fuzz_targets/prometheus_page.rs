//! A metrics page from a hostile server: the scan never panics, and finds the same whether the page comes whole
//! or in pieces.

#![no_main]

use endpoint_picker::wire::prometheus::{Compiled, Hit, MetricSpec, Query, Readings, Winner, scan};
use libfuzzer_sys::fuzz_target;

fn wanted() -> Compiled {
    let query = |spec: &str, winner| {
        let spec = MetricSpec::parse(spec).ok().flatten()?;
        Some(Query {
            spec,
            winner,
            keep_labels: true,
        })
    };
    let queries = [
        query("m", Winner::Latest),
        query("m{a=1}", Winner::Latest),
        query("m{a='x,\"'}", Winner::LargestValue),
        query("a:b", Winner::LargestValue),
    ];
    Compiled::new(queries.into_iter().flatten().collect())
}

/// Everything a hit says, comparable even when it is not a number.
fn said(hit: Option<&Hit>) -> Option<(u64, u64, Vec<(Vec<u8>, String)>)> {
    let hit = hit?;
    let labels = hit.labels().map(|(name, value)| {
        let text = value.text().into_owned();
        assert!(value.is(&text) || text.contains(char::REPLACEMENT_CHARACTER));
        (name.to_vec(), text)
    });
    Some((hit.value.to_bits(), hit.timestamp.to_bits(), labels.collect()))
}

fuzz_target!(|input: &[u8]| {
    let Some((&piece, page)) = input.split_first() else {
        return;
    };
    let wanted = wanted();
    let (mut whole, mut pieces) = (Readings::default(), Readings::default());
    scan(page, &wanted, &mut whole);
    pieces.begin(&wanted);
    for part in page.chunks(usize::from(piece) + 1) {
        if pieces.feed(&wanted, part).is_err() {
            return;
        }
    }
    pieces.finish(&wanted);
    assert_eq!(whole.malformed(), pieces.malformed());
    for index in 0..wanted.queries().len() {
        assert_eq!(said(whole.get(index)), said(pieces.get(index)));
    }
});
