//! The settings `inference-sim` runs with, to be shown (simulator.md §1.2, §14): in the log at the start, and at
//! `/admin/config`. Nothing secret is in them.

use reqwest::Url;
use serde_json::{Value, json};

use super::live::Source;
use super::options::{FLAGS, LATENCY, LOGGING};
use super::serving;
use super::settings::span_of;
use crate::base::duration::GoDuration;
use crate::base::flags::{Flag, Kind, Parsed};
use crate::simulator::Config;
use crate::simulator::control::Fields;

/// All settings by the names of flags: what was said, or what holds instead.
pub fn configuration(p: &Parsed, source: &Source, config: &Config) -> Fields {
    let mut shown = Fields::new();
    for flag in FLAGS.iter().filter(|f| f.group != LOGGING && f.name != "config") {
        shown.insert(flag.name.to_owned(), value(p, flag));
    }
    let mut set = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    let list = |at: usize| source.lists[at].clone().unwrap_or_default();
    let objects = |at: usize| -> Vec<Value> {
        let parsed = list(at)
            .into_iter()
            .filter_map(|text| serde_json::from_str(&text).ok());
        parsed.collect()
    };
    set("model", json!(config.model));
    set("served-model-name", json!(config.served_names));
    set("lora-modules", json!(objects(1)));
    set("failure-types", json!(list(2)));
    set("fake-metrics", objects(3).pop().unwrap_or_default());
    set("tokenizers-cache-dir", json!(serving::tokenizers(p)));
    set("seed", json!(config.seed.cast_signed()));
    set("hash-seed", json!(config.machine.hashing.1));
    let loras = (p.int("max-cpu-loras"), p.int("max-loras"));
    set(
        "max-cpu-loras",
        json!(if loras.0 == 0 { loras.1 } else { loras.0 }),
    );
    set("dataset-url", json!(without_secrets(p.text("dataset-url"))));
    if p.int("data-parallel-size") > 1 {
        // Every server has its own.
        shown.remove("port");
    }
    shown
}

fn value(p: &Parsed, flag: &Flag) -> Value {
    match flag.kind {
        Kind::Bool => json!(p.bool(flag.name)),
        Kind::Int => json!(p.int(flag.name)),
        Kind::Float => json!(p.float(flag.name)),
        _ => {
            let text = p.text(flag.name);
            let timed = flag.group == LATENCY || flag.name == "startup-duration";
            let span: Option<GoDuration> = span_of(text).filter(|_| timed);
            span.map_or_else(|| json!(text), |span| json!(span.to_string()))
        }
    }
}

/// An address without what may let others in: name, password, signature.
fn without_secrets(address: &str) -> String {
    let Ok(mut url) = Url::parse(address) else {
        return address.to_owned();
    };
    if !url.username().is_empty() || url.password().is_some() {
        // An address that has a name can have another one, or none.
        let _ = url.set_username("***");
        let _ = url.set_password(None);
    }
    if url.query().is_some() {
        url.set_query(Some("***"));
    }
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_what_lets_others_in() {
        for (address, shown) in [
            ("", ""),
            ("https://h/data.sqlite", "https://h/data.sqlite"),
            ("https://me:secret@h/d", "https://***@h/d"),
            ("https://h/d?X-Signature=secret&a=b", "https://h/d?***"),
            ("no address", "no address"),
        ] {
            assert_eq!(without_secrets(address), shown);
        }
    }
}
