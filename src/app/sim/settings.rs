//! The settings of `inference-sim`: command line over YAML over defaults, checked with the reference's texts.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use serde::Deserialize;

use crate::base::duration::GoDuration;
use crate::base::flags::{self, Kind, Parsed, Stop};
use crate::simulator::Config;
use crate::wire::yaml;

use super::machine;
use super::options::{FLAGS, LISTS, List, take_lists};

/// Everything `inference-sim` is told from outside, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The simulator.
    pub config: Config,
    /// Address; `None` is every address.
    pub bind: Option<IpAddr>,
    /// Port.
    pub port: u16,
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
        match from_yaml(Path::new(&path)) {
            Ok((flags, from_file)) => {
                line = flags;
                for (list, filed) in lists.iter_mut().zip(from_file) {
                    *list = list.take().or(filed);
                }
            }
            Err(text) => return CommandLine::Refused(text),
        }
    }
    line.extend(rest);
    let (parsed, stop) = flags::parse(FLAGS, &line);
    notes.extend(parsed.notes.clone());
    match stop {
        Some(Stop::Help) => CommandLine::Help(flags::help(program, FLAGS)),
        Some(Stop::Usage(text)) => CommandLine::Refused(format!("{}\n{text}", flags::help(program, FLAGS))),
        None => match settings(&parsed, &lists, env, &mut notes) {
            Ok(settings) => CommandLine::Run(Box::new(settings), notes),
            Err(errors) => CommandLine::Refused(errors.join("\n")),
        },
    }
}

/// The flags of a YAML file as words of a command line, and its lists. Unknown keys are ignored.
fn from_yaml(path: &Path) -> Result<(Vec<OsString>, [List; LISTS.len()]), String> {
    use crate::api::document::Value;
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|e| format!("cannot read the configuration file {name}: {e}"))?;
    let tree = yaml::parse(&name, &bytes).map_err(|m| m.to_string())?;
    let Value::Map(map) = &tree.value else {
        return Err(format!("{name}: must be an object"));
    };
    let scalar = |v: &Value| match v {
        Value::Text(t) => Some(t.clone()),
        Value::Int(i) => Some(i.to_string()),
        Value::Float(f) => Some(f.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    };
    let mut words = Vec::new();
    let mut lists: [List; LISTS.len()] = Default::default();
    for (key, at, node) in map {
        if let Some(i) = LISTS.iter().position(|l| l == key) {
            let values = match &node.value {
                Value::List(entries) => entries.iter().filter_map(|e| scalar(&e.value)).collect(),
                Value::Map(_) => vec![node.to_json().to_string()],
                other => scalar(other).into_iter().collect(),
            };
            lists[i] = Some(values);
        } else if FLAGS.iter().any(|f| f.name == key) {
            let Some(value) = scalar(&node.value) else {
                return Err(format!(
                    "{name}:{}:{}: {key}: must be a single value",
                    at.line, at.column
                ));
            };
            words.push(format!("--{key}={value}").into());
        }
    }
    Ok((words, lists))
}

/// A duration in Go's notation; a bare number is milliseconds, with a warning.
pub(super) fn duration(p: &Parsed, name: &str, notes: &mut Vec<String>) -> Result<GoDuration, String> {
    let text = p.text(name);
    if let Ok(ms) = text.parse::<i64>() {
        if ms != 0 {
            notes.push(format!(
                "warning: --{name}={ms}: a number without a unit is deprecated, write {ms}ms"
            ));
        }
        return Ok(GoDuration(ms.saturating_mul(1_000_000)));
    }
    GoDuration::parse(text).map_err(|_| format!("invalid duration format: {text} (--{name})"))
}

fn settings(
    p: &Parsed,
    lists: &[List; LISTS.len()],
    env: &dyn Fn(&str) -> Option<String>,
    notes: &mut Vec<String>,
) -> Result<Settings, Vec<String>> {
    let mut errors = Vec::new();
    let model = p.text("model").to_owned();
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
    let rate = p.int("failure-injection-rate");
    check(
        (0..=100).contains(&rate),
        "failure injection rate should be between 0 and 100",
    );
    let threshold = p.float("global-cache-hit-threshold");
    check(
        (0.0..=1.0).contains(&threshold),
        "global cache hit threshold must be between in range [0, 1]",
    );
    check(
        (1..=8).contains(&p.int("data-parallel-size")),
        "data parallel size must be between 1 and 8",
    );
    check(
        p.int("data-parallel-rank") <= 7,
        "data parallel rank must be between 0 and 7",
    );
    check(
        p.int("event-batch-size") >= 1,
        "event batch size cannot less than 1",
    );
    let (cert, key) = (p.text("ssl-certfile"), p.text("ssl-keyfile"));
    check(
        cert.is_empty() == key.is_empty(),
        "both ssl-certfile and ssl-keyfile must be provided together",
    );
    let bind = p.text("bind-address").parse::<IpAddr>();
    check(bind.is_ok(), "bind-address must be an IP address");
    let adapters = adapters(&model, lists[1].as_deref().unwrap_or(&[]), &mut errors);
    let number = |name: &str| usize::try_from(p.int(name)).unwrap_or(0);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seed = if p.is_set("seed") {
        p.int("seed").cast_unsigned()
    } else {
        now.as_nanos() as u64
    };
    let named = lists[0].clone().filter(|names| !names.is_empty());
    let served_names = named.unwrap_or_else(|| vec![model.clone()]);
    let known = machine::Known {
        model: &model,
        served: served_names.first().unwrap_or(&model),
        port: u16::try_from(port).unwrap_or(0),
        seed,
        v050: false,
    };
    let machine = machine::read(p, lists, env, &known, notes, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    notes.extend(idle(p, lists));
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
    };
    let bind = bind.ok().filter(|a| !(a.is_ipv6() && a.is_unspecified()));
    Ok(Settings {
        config,
        bind,
        port: u16::try_from(port).unwrap_or(0),
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

/// One line for every flag that was given and has no effect yet.
fn idle(p: &Parsed, lists: &[List; LISTS.len()]) -> Vec<String> {
    let later = FLAGS
        .iter()
        .filter(|f| f.group.starts_with("Accepted, without effect"));
    let given = |name: &str| {
        p.is_set(name)
            || LISTS
                .iter()
                .position(|l| *l == name)
                .is_some_and(|i| lists[i].is_some())
    };
    let off = |f: &&flags::Flag| f.kind == Kind::Bool && !p.bool(f.name);
    later
        .filter(|f| given(f.name) && !off(f))
        .map(|f| format!("warning: --{} is accepted and has no effect yet", f.name))
        .collect()
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
    fn lists_names_and_idle_flags() {
        let line = "--served-model-name a b --model m --lora-modules {\"name\":\"l1\"} {\"name\":\"l2\"} --self-signed-certs --seed 7";
        let (settings, notes) = run(line).unwrap();
        assert_eq!(settings.config.served_names, ["a", "b"]);
        assert_eq!(settings.config.adapters, ["l1", "l2"]);
        assert_eq!(settings.config.seed, 7);
        assert_eq!(
            notes,
            ["warning: --self-signed-certs is accepted and has no effect yet"]
        );
    }
}
