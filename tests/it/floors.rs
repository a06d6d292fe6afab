//! A module imports only from lower floors: reads every path in `src/` that begins at the crate's root, by `crate` or by
//! `super`, and fails on one that goes up or sideways.

use std::path::{Path, PathBuf};

const FLOORS: [&[&str]; 9] = [
    &["base"],
    &["model", "api", "telemetry"],
    &["wire"],
    &["plugin", "datastore", "prefix"],
    &["scheduling", "saturation", "kubernetes"],
    &["datalayer", "discovery", "net"],
    &["requestcontrol", "simulator"],
    &["extproc", "config", "admin"],
    &["app"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|f| f.contains(&module))
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The code of a file: comments, strings and characters are blanks.
fn code(text: &str) -> Vec<char> {
    let text: Vec<char> = text.chars().collect();
    let mut code = Vec::with_capacity(text.len());
    let starts = |at: usize, what: &str| {
        what.chars()
            .enumerate()
            .all(|(i, c)| text.get(at + i) == Some(&c))
    };
    let mut at = 0;
    while at < text.len() {
        let begin = at;
        if starts(at, "//") {
            while at < text.len() && text[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            while at < text.len() && !starts(at, "*/") {
                at += 1;
            }
            at += 2;
        } else if let Some(hashes) = raw_string(&text, at) {
            let end = format!("\"{}", "#".repeat(hashes));
            at += hashes + 2;
            while at < text.len() && !starts(at, &end) {
                at += 1;
            }
            at += end.len();
        } else if text[at] == '"' {
            at += 1;
            while at < text.len() && text[at] != '"' {
                at += if text[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if text[at] == '\'' && (text.get(at + 2) == Some(&'\'') || text.get(at + 1) == Some(&'\\')) {
            at += 2;
            while at < text.len() && text[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else {
            code.push(text[at]);
            at += 1;
            continue;
        }
        code.extend(std::iter::repeat_n(' ', at.min(text.len()) - begin));
    }
    code
}

/// The number of `#` of the raw string that begins here.
fn raw_string(text: &[char], at: usize) -> Option<usize> {
    let alone = at
        .checked_sub(1)
        .is_none_or(|before| text[before] == 'b' || !is_word(text[before]));
    if text[at] != 'r' || !alone {
        return None;
    }
    let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
    (text.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The word that begins here.
fn word(code: &[char], at: usize) -> String {
    code[at..].iter().take_while(|c| is_word(**c)).collect()
}

fn past_blanks(code: &[char], mut at: usize) -> usize {
    while code.get(at).is_some_and(|c| c.is_whitespace()) {
        at += 1;
    }
    at
}

/// Reads the path that begins at `at`, groups included, and adds every whole path to `found`; returns where it ends.
fn path(code: &[char], at: usize, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut segments = before.to_vec();
    let mut at = past_blanks(code, at);
    loop {
        if code.get(at) == Some(&'{') {
            at = past_blanks(code, at + 1);
            while at < code.len() && code[at] != '}' {
                let end = path(code, at, &segments, found);
                // What is no path, `*` or `as x`, is passed over.
                at = end.max(at + 1);
                while at < code.len() && !matches!(code[at], ',' | '}') {
                    at += 1;
                }
                if code.get(at) == Some(&',') {
                    at = past_blanks(code, at + 1);
                }
            }
            return at + 1;
        }
        let segment = word(code, at);
        at += segment.chars().count();
        if !segment.is_empty() {
            segments.push(segment);
        }
        let next = past_blanks(code, at);
        if code.get(next) != Some(&':') || code.get(next + 1) != Some(&':') {
            found.push(segments);
            return at;
        }
        at = past_blanks(code, next + 2);
    }
}

/// The modules of the crate's root that `text` names, by `crate::` or by as many `super::` as lead there from `module`.
fn imports(text: &str, module: &[String]) -> Vec<String> {
    let code = code(text);
    let mut found = Vec::new();
    // Of each open brace: does it open a module?
    let mut open: Vec<bool> = Vec::new();
    let mut at = 0;
    while at < code.len() {
        match code[at] {
            '{' => {
                let head: String = code[..at]
                    .iter()
                    .rev()
                    .take_while(|c| !matches!(c, ';' | '{' | '}' | ']'))
                    .collect();
                let head: String = head.chars().rev().collect();
                open.push(head.split_whitespace().rev().nth(1) == Some("mod"));
            }
            '}' => {
                open.pop();
            }
            _ => {}
        }
        let begins = is_word(code[at])
            && at
                .checked_sub(1)
                .is_none_or(|before| !is_word(code[before]) && code[before] != ':');
        if !begins {
            at += 1;
            continue;
        }
        let first = word(&code, at);
        if first != "crate" && first != "super" {
            at += first.chars().count();
            continue;
        }
        let mut paths = Vec::new();
        at = path(&code, at, &[], &mut paths).max(at + 1);
        let depth = module.len() + open.iter().filter(|is_module| **is_module).count();
        for path in paths {
            let supers = path.iter().take_while(|s| *s == "super").count();
            let named = match path[0].as_str() {
                "crate" => path.get(1),
                _ if supers == depth => path.get(supers),
                _ => None,
            };
            found.extend(named.cloned());
        }
    }
    found
}

/// The path of a file's module.
fn module(relative: &Path) -> Vec<String> {
    let parts = relative.with_extension("");
    let mut parts: Vec<String> = parts
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

#[test]
fn every_import_is_seen() {
    let deep = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
    let rows: [(&str, &[&str]); 12] = [
        ("use crate::x::y;", &["x"]),
        ("use crate::{x::{y, z::{u}}, v, w as t};", &["x", "x", "v", "w"]),
        (
            "use crate::{\n    x::y,\n    // not::this,\n    v::*,\n};",
            &["x", "v"],
        ),
        ("let a = crate::x::f(crate::y::G { h: 1 });", &["x", "y"]),
        ("use super::super::x;", &[]),
        ("use super::super::super::x::y;", &["x"]),
        ("use super::super::super::{x, y::{z}};", &["x", "y"]),
        ("use super::{super::{super::x, q}, p};", &["x"]),
        (
            "mod tests { use super::super::super::x; use super::super::super::super::y; }",
            &["y"],
        ),
        ("pub(super) fn f() {} pub(in crate::x) fn g() {}", &["x"]),
        (
            "let s = \"crate::x\"; let r = r#\"\"crate::y\"#; let c = '\"'; crate::z()",
            &["z"],
        ),
        ("fn f<'a>(x: &'a str) -> $crate::x { supercrate::y }", &["x"]),
    ];
    for (text, expected) in rows {
        assert_eq!(imports(text, &deep), expected, "{text}");
    }
    assert_eq!(
        imports("use super::x; use super::super::y;", &["a".to_owned()]),
        ["x"]
    );
    assert_eq!(module(Path::new("a/b/mod.rs")), ["a", "b"]);
    assert_eq!(module(Path::new("a/b.rs")), ["a", "b"]);
}

#[test]
fn imports_only_go_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let own = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        let Some(own_floor) = floor(own) else { continue };
        for import in imports(&std::fs::read_to_string(&file).unwrap(), &module(relative)) {
            let allowed = import == own || floor(&import).is_some_and(|f| f < own_floor);
            if !allowed {
                wrong.push(format!("{}: crate::{import}", relative.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that go up or sideways:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_module_of_the_library_has_a_floor() {
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for line in lib.lines().filter_map(|l| l.strip_prefix("pub mod ")) {
        assert!(
            floor(line.trim_end_matches(';')).is_some(),
            "{line} is on no floor"
        );
    }
}

#[test]
fn every_file_says_what_it_is() {
    let mut files = Vec::new();
    for dir in ["src", "tests", "benches"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut files);
    }
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("//!"),
            "{} does not open with a //! line",
            file.display()
        );
    }
}
