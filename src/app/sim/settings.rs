//! The settings of `inference-sim`: command line over YAML over defaults, checked with the reference's texts.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;

use crate::base::duration::GoDuration;
use crate::base::flags::{self, Parsed, Stop};
use crate::simulator::{Compat, Config};

use super::lists::take_lists;
use super::live::Source;
use super::machine;
use super::options::FLAGS;
use super::serving::{self, Serving};
use super::{checks, yaml_file};

/// Everything `inference-sim` is told from outside, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The simulator.
    pub config: Config,
    /// Address; `None` is every address.
    pub bind: Option<IpAddr>,
    /// Port; rank r of several takes the port r further.
    pub port: u16,
    /// Everything around the simulator.
    pub serving: Serving,
}

/// What a command line asks for.
#[derive(Debug)]
pub enum CommandLine {
    /// Run with these settings; the lines go to stderr first.
    Run(Box<Settings>, Vec<String>),
    /// `--help`: exit code 0.
    Help(String),
    /// Refused: the text goes to stderr, exit code 1.
    Refused(String),
}

#[derive(Deserialize)]
struct Adapter {
    #[serde(default)]
    name: String,
    base_model_name: Option<String>,
}

/// Reads a command line; `env` gives environment variables.
pub fn read(program: &str, args: Vec<OsString>, env: &dyn Fn(&str) -> Option<String>) -> CommandLine {
    let (rest, mut lists) = take_lists(args);
    let mut notes = Vec::new();
    let mut line = Vec::new();
    // `--config` counts only with exactly one value.
    let file = match lists[4].as_deref() {
        Some([path]) => Some(path.clone()),
        Some(_) => {
            notes.push("warning: --config needs exactly one file: ignored".to_owned());
            None
        }
        None => None,
    };
    if let Some(path) = file {
        match yaml_file::read(Path::new(&path)) {
            Ok(file) => {
                line = file.words;
                notes.extend(file.notes);
                for (list, filed) in lists.iter_mut().zip(file.lists) {
                    *list = list.take().or(filed);
                }
            }
            Err(text) => return CommandLine::Refused(text),
        }
    }
    line.extend(rest);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let source = Arc::new(Source::new(line, lists, now.as_nanos() as i64, env));
    let (parsed, stop) = flags::parse(FLAGS, &source.words);
    notes.extend(parsed.notes.clone());
    match stop {
        Some(Stop::Help) => CommandLine::Help(flags::help(program, FLAGS)),
        Some(Stop::Usage(text)) => CommandLine::Refused(format!("{}\n{text}", flags::help(program, FLAGS))),
        None => {
            notes.extend(checks::without_effect(&parsed));
            let mut errors = checks::of_v050(&parsed);
            match settings(&parsed, &source, &mut notes) {
                Ok(settings) if errors.is_empty() => CommandLine::Run(Box::new(settings), notes),
                Ok(_) => CommandLine::Refused(errors.join("\n")),
                Err(more) => {
                    errors.extend(more);
                    CommandLine::Refused(errors.join("\n"))
                }
            }
        }
    }
}

/// A duration in Go's notation; a bare number is milliseconds, with a warning.
pub(super) fn duration(p: &Parsed, name: &str, notes: &mut Vec<String>) -> Result<GoDuration, String> {
    let text = p.text(name);
    // In v0.5.0 a number without a unit is what there is.
    let current = serving::compat(p) != Compat::V050;
    if let Some(ms) = text.parse::<i64>().ok().filter(|ms| current && *ms != 0) {
        notes.push(format!(
            "warning: --{name}={ms}: a number without a unit is deprecated, write {ms}ms"
        ));
    }
    span_of(text).ok_or_else(|| format!("invalid duration format: {text} (--{name})"))
}

/// A duration in Go's notation, or milliseconds.
pub(super) fn span_of(text: &str) -> Option<GoDuration> {
    match text.parse::<i64>() {
        Ok(ms) => Some(GoDuration(ms.saturating_mul(1_000_000))),
        Err(_) => GoDuration::parse(text).ok(),
    }
}

/// Reads and checks everything; lines for stderr go to `notes`.
///
/// # Errors
/// Everything that is wrong.
pub(super) fn settings(
    p: &Parsed,
    source: &Arc<Source>,
    notes: &mut Vec<String>,
) -> Result<Settings, Vec<String>> {
    let lists = &source.lists;
    let env = &|name: &str| source.env(name);
    let mut errors = Vec::new();
    let mut model = p.text("model").to_owned();
    if !p.is_set("model") {
        model = env("SIM_MODEL").unwrap_or_default();
    }
    errors.extend(checks::all(p, lists, env));
    let mut check = |ok: bool, text: &str| {
        if !ok {
            errors.push(text.to_owned());
        }
    };
    check(!model.is_empty(), "model parameter is empty");
    let port = p.int("port");
    check((1..=65535).contains(&port), &format!("invalid port '{port}'"));
    check(p.int("max-num-seqs") >= 1, "max num seqs cannot be less than 1");
    check(
        p.int("max-waiting-queue-length") >= 1,
        "max waiting queue size cannot be less than 1",
    );
    check(p.int("max-loras") >= 1, "max LoRAs cannot be less than 1");
    let cpu = p.int("max-cpu-loras");
    check(
        cpu == 0 || cpu >= p.int("max-loras"),
        "max CPU LoRAs cannot be less than max LoRAs",
    );
    check(p.int("max-model-len") >= 1, "max model len cannot be less than 1");
    let mode = p.text("mode");
    check(
        matches!(mode, "random" | "echo"),
        &format!("invalid mode '{mode}', valid values are 'random' and 'echo'"),
    );
    check(p.int("kv-cache-size") >= 0, "KV cache size cannot be negative");
    check(
        matches!(p.int("block-size"), 8 | 16 | 32 | 64 | 128),
        "token block size should be one of the following: 8, 16, 32, 64, 128",
    );
    check(
        p.float("time-factor-under-load") >= 1.0,
        "time factor under load cannot be less than 1.0",
    );
    check(
        p.float("time-factor-under-load") <= 1e6,
        "time factor under load cannot be more than 1000000",
    );
    let body = p.int("max-request-body-size-mb");
    check(
        (1..=512).contains(&body),
        &format!("max-request-body-size-mb must be between 1 MB and 512 MB, got {body}"),
    );
    let bind = p.text("bind-address").parse::<IpAddr>();
    check(bind.is_ok(), "bind-address must be an IP address");
    let adapters = adapters(&model, lists[1].as_deref().unwrap_or(&[]), &mut errors);
    let number = |name: &str| usize::try_from(p.int(name)).unwrap_or(0);
    let seed = if p.is_set("seed") {
        p.int("seed")
    } else {
        source.seed
    }
    .cast_unsigned();
    let named = lists[0].clone().filter(|names| !names.is_empty());
    let served_names = named.unwrap_or_else(|| vec![model.clone()]);
    let known = machine::Known {
        model: &model,
        served: served_names.first().unwrap_or(&model),
        port: u16::try_from(port).unwrap_or(0),
        seed,
        v050: serving::compat(p) == Compat::V050,
    };
    let startup = machine::span(p, "startup-duration", "startup duration", notes, &mut errors);
    let machine = machine::read(p, source, &known, notes, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let pod = |name: &str| env(name).filter(|v| !v.is_empty());
    let mut headers = Vec::new();
    if let Some(name) = pod("POD_NAME") {
        headers.push(("x-inference-pod".to_owned(), name));
        headers.push(("x-inference-port".to_owned(), port.to_string()));
    }
    headers.extend(pod("POD_NAMESPACE").map(|ns| ("x-inference-namespace".to_owned(), ns)));
    let config = Config {
        served_names,
        model,
        adapters,
        max_model_len: number("max-model-len"),
        echo: mode == "echo",
        seed,
        machine,
        headers,
        request_id_headers: p.bool("enable-request-id-headers"),
        max_body: number("max-request-body-size-mb") << 20,
        cache_generated: p.bool("cache-generated-tokens"),
        cache_hit_threshold: p.float("global-cache-hit-threshold"),
        port: u16::try_from(port).unwrap_or(0),
        echo_chat: serving::echo_chat(p),
        tools: serving::tools(p),
        sleep_mode: p.bool("enable-sleep-mode") && env("VLLM_SERVER_DEV_MODE").as_deref() == Some("1"),
        embedding_dimensions: number("default-embedding-dimensions"),
        compat: serving::compat(p),
        startup,
        log_http: p.bool("log-http"),
        ranks: u16::try_from(p.int("data-parallel-size")).unwrap_or(1),
    };
    let bind = bind.ok().filter(|a| !(a.is_ipv6() && a.is_unspecified()));
    Ok(Settings {
        config,
        bind,
        port: u16::try_from(port).unwrap_or(0),
        serving: serving::read(p),
    })
}

fn adapters(model: &str, modules: &[String], errors: &mut Vec<String>) -> Vec<String> {
    let mut names = Vec::new();
    for module in modules {
        // One JSON object a value, or a JSON list of them.
        let parsed = serde_json::from_str::<Vec<Adapter>>(module)
            .or_else(|_| serde_json::from_str::<Adapter>(module).map(|a| vec![a]));
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(e) => {
                errors.push(format!("invalid lora-modules entry {module}: {e}"));
                continue;
            }
        };
        for adapter in parsed {
            if adapter.name.is_empty() {
                errors.push("empty LoRA name".to_owned());
            } else if let Some(base) = adapter.base_model_name.filter(|b| !b.is_empty() && b != model) {
                errors.push(format!("unknown base model '{base}' for LoRA '{}'", adapter.name));
            } else {
                names.push(adapter.name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn run(line: &str) -> Result<(Settings, Vec<String>), String> {
        let args = line
            .split(' ')
            .filter(|w| !w.is_empty())
            .map(OsString::from)
            .collect();
        match read("inference-sim", args, &|_| None) {
            CommandLine::Run(s, notes) => Ok((*s, notes)),
            CommandLine::Help(text) | CommandLine::Refused(text) => Err(text),
        }
    }

    #[test]
    fn mistakes_have_the_texts_of_the_reference() {
        let rows = [
            ("", "model parameter is empty"),
            ("--model m --port 0", "invalid port '0'"),
            ("--model m --max-num-seqs 0", "max num seqs cannot be less than 1"),
            (
                "--model m --max-waiting-queue-length 0",
                "max waiting queue size cannot be less than 1",
            ),
            ("--model m --max-loras 0", "max LoRAs cannot be less than 1"),
            (
                "--model m --max-loras 3 --max-cpu-loras 2",
                "max CPU LoRAs cannot be less than max LoRAs",
            ),
            (
                "--model m --mode dream",
                "invalid mode 'dream', valid values are 'random' and 'echo'",
            ),
            (
                "--model m --block-size 7",
                "token block size should be one of the following",
            ),
            (
                "--model m --time-to-first-token -1s",
                "time to first token cannot be negative",
            ),
            (
                "--model m --time-to-first-token 100ms --time-to-first-token-std-dev 31ms",
                "time to first token standard deviation cannot be more than 30% of time to first token",
            ),
            (
                "--model m --prefill-time-per-token 10ms --prefill-time-std-dev 4ms",
                "prefill time standard deviation cannot be more than 30% of prefill time per token",
            ),
            (
                "--model m --inter-token-latency soon",
                "invalid duration format: soon",
            ),
            (
                "--model m --time-factor-under-load inf",
                "time factor under load cannot be more than 1000000",
            ),
            (
                "--model m --time-factor-under-load 0.5",
                "time factor under load cannot be less than 1.0",
            ),
            (
                "--model m --latency-calculator guess",
                "unknown latency-calculator guess",
            ),
            ("--model m --lora-modules {\"name\":\"\"}", "empty LoRA name"),
            (
                "--model m --lora-modules {\"name\":\"l\",\"base_model_name\":\"x\"}",
                "unknown base model 'x' for LoRA 'l'",
            ),
            ("--model m --nope", "unknown flag: --nope"),
        ];
        for (line, text) in rows {
            let error = run(line).map(|_| ()).unwrap_err();
            assert!(error.contains(text), "{line}: {error}");
        }
    }

    #[test]
    fn numbers_without_a_unit_are_milliseconds_and_warned_about() {
        let (settings, notes) =
            run("--model m --time-to-first-token 250 --inter-token-latency 1.5ms").unwrap();
        assert_eq!(
            settings.config.machine.engine.latency.time_to_first_token.0,
            Duration::from_millis(250)
        );
        let itl = settings.config.machine.engine.latency.inter_token.0;
        assert_eq!(itl, Duration::from_micros(1500));
        assert_eq!(notes.len(), 1, "{notes:?}");
    }

    #[test]
    fn lists_take_every_word_up_to_the_next_flag() {
        let line = "--served-model-name a b --model m --lora-modules {\"name\":\"l1\"} {\"name\":\"l2\"} --zmq-endpoint tcp://h:1 --seed 7";
        let (settings, notes) = run(line).unwrap();
        assert_eq!(settings.config.served_names, ["a", "b"]);
        assert_eq!(settings.config.adapters, ["l1", "l2"]);
        assert_eq!(settings.config.seed, 7);
        assert!(notes.is_empty(), "{notes:?}");
    }
}
