//! What `inference-sim` is told beside the simulator's own settings: TLS, ranks, dataset, tokenizer. Called by
//! `settings` once the flags have passed their checks.

use std::path::PathBuf;

use super::tls::Certificate;
use crate::base::flags::Parsed;
use crate::simulator::dataset::Source;
use crate::simulator::tools::Ranges;
use crate::simulator::{Compat, EchoChat};
use crate::telemetry::logging::{self, Threshold};

/// Everything around the simulator.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Servers in this process, 1 to 8.
    pub ranks: u16,
    /// Rank of this process, for its log.
    pub rank: Option<u16>,
    /// TLS, where wanted.
    pub certificate: Option<Certificate>,
    /// Dataset, where given.
    pub dataset: Option<Source>,
    /// Where to get its file, if it is not there.
    pub dataset_url: Option<String>,
    /// Folder of tokenizers; `None`: the simple one in any case.
    pub tokenizers: Option<PathBuf>,
    /// What is logged.
    pub log: logging::Options,
}

/// Reads them.
pub fn read(p: &Parsed) -> Serving {
    let given = |name: &str| Some(p.text(name)).filter(|text| !text.is_empty());
    let certificate = match (given("ssl-certfile"), given("ssl-keyfile")) {
        (Some(certificate), Some(key)) => Some(Certificate::Files(certificate.into(), key.into())),
        _ => p.bool("self-signed-certs").then_some(Certificate::SelfSigned),
    };
    Serving {
        ranks: u16::try_from(p.int("data-parallel-size")).unwrap_or(1),
        rank: u16::try_from(p.int("data-parallel-rank")).ok(),
        certificate,
        dataset: given("dataset-path").map(|path| Source {
            path: path.into(),
            table: p.text("dataset-table-name").to_owned(),
            in_memory: p.bool("dataset-in-memory"),
        }),
        dataset_url: given("dataset-url").map(str::to_owned),
        tokenizers: (!p.bool("force-dummy-tokenizer")).then(|| tokenizers(p).into()),
        log: logging::Options {
            threshold: threshold(p.int("v")),
            ..logging::Options::default()
        },
    }
}

/// The folder of tokenizers; v0.5.0 has none unless it is told one.
pub fn tokenizers(p: &Parsed) -> &str {
    const NAME: &str = "tokenizers-cache-dir";
    match compat(p) {
        Compat::V050 if !p.is_set(NAME) => "",
        _ => p.text(NAME),
    }
}

/// klog's levels: 1 warnings, 2 information, 4 debugging, 5 everything.
fn threshold(verbosity: i64) -> Threshold {
    match verbosity {
        ..=1 => Threshold::Warn,
        2 | 3 => Threshold::Verbosity(0),
        more => Threshold::Verbosity(u32::try_from(more).unwrap_or(u32::MAX)),
    }
}

/// Whose shapes and rules.
pub fn compat(p: &Parsed) -> Compat {
    match p.text("compat-version") {
        "v0.5.0" => Compat::V050,
        _ => Compat::Base,
    }
}

/// What echo mode repeats of a chat.
pub fn echo_chat(p: &Parsed) -> EchoChat {
    match p.text("echo-chat") {
        "last" => EchoChat::Last,
        _ => EchoChat::All,
    }
}

/// What made-up calls are like.
pub fn tools(p: &Parsed) -> Ranges {
    let length = |name: &str| usize::try_from(p.int(name)).unwrap_or(0);
    let percent = |name: &str| u32::try_from(p.int(name)).ok();
    Ranges {
        integer: (
            p.int("min-tool-call-integer-param"),
            p.int("max-tool-call-integer-param"),
        ),
        number: (
            p.float("min-tool-call-number-param"),
            p.float("max-tool-call-number-param"),
        ),
        array: (
            length("min-tool-call-array-param-length"),
            length("max-tool-call-array-param-length"),
        ),
        optional_parameter: percent("tool-call-not-required-param-probability").unwrap_or(50),
        optional_field: percent("object-tool-call-not-required-field-probability").unwrap_or(50),
        extra_call: percent("tool-call-extra-call-probability"),
        skip_validation: p.bool("skip-tool-validation"),
    }
}
