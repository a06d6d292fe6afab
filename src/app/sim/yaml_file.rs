//! The YAML file of `--config`: keys are the names of flags (simulator.md §1.2). Read into words of a command line,
//! every value checked where it stands. Called by `settings`.

use std::ffi::OsString;
use std::path::Path;

use super::lists::{LISTS, List};
use super::options::{DURATIONS, FLAGS, MILLISECONDS};
use super::settings::span_of;
use crate::api::document::{Mistakes, Node, Place, Value, shown};
use crate::base::flags::{self, Stop};
use crate::base::regular_file;
use crate::base::suggest;
use crate::wire::yaml;

/// A file as a command line.
#[derive(Debug, Default)]
pub struct FromFile {
    /// Single values.
    pub words: Vec<OsString>,
    /// Lists.
    pub lists: [List; LISTS.len()],
    /// Lines for stderr.
    pub notes: Vec<String>,
}

/// Reads a file. Unknown keys are ignored, with a note.
///
/// # Errors
/// It cannot be read, or a value is of the wrong kind: one line for each mistake.
pub fn read(path: &Path) -> Result<FromFile, String> {
    let name = path.display().to_string();
    let bytes = regular_file::read(path, yaml::MAX_BYTES as u64)
        .map_err(|e| format!("cannot read the configuration file {name}: {e}"))?;
    let tree = yaml::parse(&name, &bytes).map_err(|m| m.to_string())?;
    let mut mistakes = Mistakes::of(&name);
    let mut file = FromFile::default();
    match &tree.value {
        Value::Null => {}
        Value::Map(map) => {
            for (key, at, node) in map {
                file.field(&name, key, *at, node, &mut mistakes);
            }
        }
        _ => mistakes.add(tree.at, "", "must be an object whose keys are names of flags"),
    }
    if mistakes.list.is_empty() {
        Ok(file)
    } else {
        Err(mistakes.to_string())
    }
}

impl FromFile {
    fn field(&mut self, name: &str, key: &str, at: Place, node: &Node, mistakes: &mut Mistakes) {
        if node.value == Value::Null {
            return;
        }
        if let Some(i) = LISTS.iter().position(|l| *l == key) {
            self.lists[i] = Some(entries(key, node, mistakes));
            return;
        }
        if !FLAGS.iter().any(|f| f.name == key) {
            let known = FLAGS.iter().map(|f| f.name).chain(LISTS);
            let hint = suggest::hint(key, known);
            let (line, column) = (at.line, at.column);
            self.notes.push(format!(
                "warning: {name}:{line}:{column}: unknown field \"{}\" is ignored{hint}",
                shown(key)
            ));
            return;
        }
        let Some(text) = scalar(&node.value) else {
            mistakes.add(node.at, key, "must be a single value");
            return;
        };
        let word = OsString::from(format!("--{key}={text}"));
        match flags::parse(FLAGS, std::slice::from_ref(&word)).1 {
            Some(Stop::Usage(text)) => mistakes.add(node.at, key, text),
            _ if is_duration(key) && span_of(&text).is_none() => {
                mistakes.add(node.at, key, format!("invalid duration format: {text}"));
            }
            _ => self.words.push(word),
        }
    }
}

fn is_duration(key: &str) -> bool {
    MILLISECONDS.iter().chain(&DURATIONS).any(|name| *name == key)
}

/// The entries of a list: texts as they are, objects as JSON.
fn entries(key: &str, node: &Node, mistakes: &mut Mistakes) -> Vec<String> {
    let single = std::slice::from_ref(node);
    let nodes = match &node.value {
        Value::List(nodes) => nodes,
        _ => single,
    };
    let mut out = Vec::new();
    for (i, entry) in nodes.iter().enumerate() {
        match &entry.value {
            Value::Map(_) => out.push(entry.to_json().to_string()),
            value => match scalar(value) {
                Some(text) => out.push(text),
                None => mistakes.add(entry.at, format!("{key}[{i}]"), "must be a text or an object"),
            },
        }
    }
    out
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Int(i) => Some(i.to_string()),
        Value::Float(f) => Some(f.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<FromFile, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path()).map_err(|e| e.replace(&file.path().display().to_string(), "F"))
    }

    #[test]
    fn entries_are_texts_or_objects() {
        let file =
            read_text("lora-modules:\n- '{\"name\":\"a\"}'\n- {name: b, path: /p}\nport: 8001\nmodel:\n")
                .unwrap();
        assert_eq!(file.words, ["--port=8001"]);
        let loras = file.lists[1].clone().unwrap();
        assert_eq!(loras, [r#"{"name":"a"}"#, r#"{"name":"b","path":"/p"}"#]);
    }

    #[test]
    fn a_value_of_the_wrong_kind_has_a_place() {
        for (text, expected) in [
            ("model: m\nport: many\n", "F:2:7: port: invalid argument \"many\""),
            (
                "model: m\ntime-to-first-token: soon\n",
                "F:2:22: time-to-first-token: invalid duration format: soon",
            ),
            ("port: [1, 2]\n", "F:1:7: port: must be a single value"),
            (
                "lora-modules:\n- [x]\n",
                "F:2:3: lora-modules[0]: must be a text or an object",
            ),
            ("[1]", "F:1:1: must be an object"),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_is_ignored_with_a_hint() {
        let file = read_text("max-num-seq: 3\n").unwrap();
        assert_eq!(file.notes.len(), 1);
        assert!(
            file.notes[0]
                .ends_with(":1:1: unknown field \"max-num-seq\" is ignored (did you mean \"max-num-seqs\"?)"),
            "{:?}",
            file.notes
        );
    }
}
