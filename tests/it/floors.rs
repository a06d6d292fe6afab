//! A module imports only from lower floors: reads every `crate::` path in `src/` and fails on one that goes
//! up or sideways.

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

/// The first path segments after each `crate::` in `text`, groups (`crate::{a, b::c}`) included.
fn imports(text: &str) -> Vec<String> {
    let code = text
        .lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group
                .split('}')
                .next()
                .unwrap_or("")
                .split(',')
                .map(str::trim)
                .collect(),
            None => vec![rest],
        };
        for name in names {
            let ident: String = name
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            found.push(ident);
        }
    }
    found
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
        for import in imports(&std::fs::read_to_string(&file).unwrap()) {
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
