//! Command lines with the semantics of Go's pflag (runtime.md §1.2): a table of flags, and what a command line
//! makes of it. Own code and no library, because the grammar (shorthand clusters, values that begin with a dash,
//! `--bool value` leaving the value behind), the order of deprecation lines and the texts are pflag's.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;

use super::duration::GoDuration;

/// Type of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--x`, `--x=false`; a value only after `=`.
    Bool,
    /// 64 bits; decimal, `0x`, `0o`, `0b`, underscores.
    Int,
    /// A floating-point number.
    Float,
    /// Go's notation, unit required.
    Duration,
    /// Comma-separated decimals; the first occurrence replaces the default, later ones append.
    IntList,
    /// Taken literally.
    Text,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Long name.
    pub name: &'static str,
    /// Shorthand letter.
    pub short: Option<char>,
    /// Type.
    pub kind: Kind,
    /// Default, as it would be typed; empty for an empty text or list.
    pub default: &'static str,
    /// Heading it stands under in `--help`.
    pub group: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What follows `has been deprecated, ` when the flag is set; deprecated flags are not in `--help`.
    pub deprecated: Option<&'static str>,
    /// Not in the reference: ours.
    pub ours: bool,
}

/// A flag of the reference, without shorthand.
pub const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    group: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        short: None,
        kind,
        default,
        group,
        help,
        deprecated: None,
        ours: false,
    }
}

/// The same flag, marked as ours.
pub const fn ours(flag: Flag) -> Flag {
    Flag { ours: true, ..flag }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Int`].
    Int(i64),
    /// Of [`Kind::Float`].
    Float(f64),
    /// Of [`Kind::Duration`].
    Duration(GoDuration),
    /// Of [`Kind::IntList`].
    IntList(Vec<i64>),
    /// Of [`Kind::Text`].
    Text(String),
}

/// Why parsing stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `--help` or `-h`.
    Help,
    /// A usage error: the usage and this line go to stderr, the exit code is 2.
    Usage(String),
}

/// A parsed command line.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    values: BTreeMap<&'static str, Value>,
    set: BTreeSet<&'static str>,
    /// Lines for stderr, in command-line order: deprecations, and values left behind by boolean flags.
    pub notes: Vec<String>,
}

/// Parses `args` (without the program's name) against `flags`. The notes gathered until an error are returned
/// with it: pflag prints them as it goes.
pub fn parse(flags: &'static [Flag], args: &[OsString]) -> (Parsed, Option<Stop>) {
    let mut parser = Parser {
        flags,
        parsed: Parsed::default(),
        words: Vec::new(),
        at: 0,
    };
    let defaults = flags
        .iter()
        .filter_map(|f| Some((f.name, value_of(f, f.default).ok()?)));
    parser.parsed.values = defaults.collect();
    for arg in args {
        match arg.to_str() {
            Some(word) => parser.words.push(word.to_owned()),
            None => {
                let text = format!("argument {arg:?} is not valid UTF-8");
                return (parser.parsed, Some(Stop::Usage(text)));
            }
        }
    }
    let stop = parser.run().err();
    (parser.parsed, stop)
}

struct Parser {
    flags: &'static [Flag],
    parsed: Parsed,
    words: Vec<String>,
    at: usize,
}

fn usage(text: String) -> Stop {
    Stop::Usage(text)
}

impl Parser {
    fn run(&mut self) -> Result<(), Stop> {
        while let Some(word) = self.words.get(self.at).cloned() {
            self.at += 1;
            if word == "--" {
                return Ok(());
            }
            if let Some(long) = word.strip_prefix("--") {
                self.long(&word, long)?;
            } else if word.len() > 1 && word.starts_with('-') {
                self.shorts(&word[1..])?;
            }
            // Anything else is a positional argument: collected by pflag, used by nobody.
        }
        Ok(())
    }

    fn long(&mut self, word: &str, long: &str) -> Result<(), Stop> {
        if long.is_empty() || long.starts_with(['-', '=']) {
            return Err(usage(format!("bad flag syntax: {word}")));
        }
        let (name, given) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let Some(flag) = self.flags.iter().find(|f| f.name == name) else {
            return Err(if name == "help" {
                Stop::Help
            } else {
                usage(format!("unknown flag: --{name}"))
            });
        };
        match given {
            Some(value) => self.set(flag, &value),
            None if flag.kind == Kind::Bool => self.bare_bool(flag),
            None => {
                let value = self
                    .next_word()
                    .ok_or_else(|| usage(format!("flag needs an argument: --{name}")))?;
                self.set(flag, &value)
            }
        }
    }

    /// A cluster of shorthands: `-v`, `-v3`, `-v=3`.
    fn shorts(&mut self, cluster: &str) -> Result<(), Stop> {
        let mut rest = cluster;
        while let Some(letter) = rest.chars().next() {
            let after = &rest[letter.len_utf8()..];
            let Some(flag) = self.flags.iter().find(|f| f.short == Some(letter)) else {
                let unknown = usage(format!("unknown shorthand flag: {letter:?} in -{rest}"));
                return Err(if letter == 'h' { Stop::Help } else { unknown });
            };
            if let Some(value) = after.strip_prefix('=').filter(|v| !v.is_empty()) {
                return self.set(flag, value);
            }
            if flag.kind == Kind::Bool {
                self.bare_bool(flag)?;
                rest = after;
                continue;
            }
            if !after.is_empty() {
                return self.set(flag, after);
            }
            let missing = || usage(format!("flag needs an argument: {letter:?} in -{rest}"));
            let value = self.next_word().ok_or_else(missing)?;
            return self.set(flag, &value);
        }
        Ok(())
    }

    fn next_word(&mut self) -> Option<String> {
        let word = self.words.get(self.at).cloned();
        self.at += 1;
        word
    }

    /// A boolean flag without `=`: true, whatever the next word says. Many a chart gets this wrong: warn.
    fn bare_bool(&mut self, flag: &'static Flag) -> Result<(), Stop> {
        if let Some(next) = self.words.get(self.at).filter(|w| parse_bool(w).is_some()) {
            self.parsed.notes.push(format!(
                "warning: --{0} is set to true; the word {next:?} after it is ignored (write --{0}={next})",
                flag.name
            ));
        }
        self.set(flag, "true")
    }

    fn set(&mut self, flag: &'static Flag, text: &str) -> Result<(), Stop> {
        let mut value = value_of(flag, text).map_err(|reason| {
            let names = flag
                .short
                .map_or(format!("--{}", flag.name), |s| format!("-{s}, --{}", flag.name));
            usage(format!("invalid argument {text:?} for {names:?} flag: {reason}"))
        })?;
        let again = !self.parsed.set.insert(flag.name);
        if let Value::IntList(new) = &value
            && let Some(Value::IntList(old)) = self.parsed.values.get(flag.name).filter(|_| again)
        {
            value = Value::IntList(old.iter().chain(new).copied().collect());
        }
        self.parsed.values.insert(flag.name, value);
        if let Some(what) = flag.deprecated {
            self.parsed
                .notes
                .push(format!("Flag --{} has been deprecated, {what}", flag.name));
        }
        Ok(())
    }
}

fn value_of(flag: &Flag, text: &str) -> Result<Value, String> {
    let syntax = |f: &str| format!("strconv.{f}: parsing {text:?}: invalid syntax");
    match flag.kind {
        Kind::Bool => parse_bool(text)
            .map(Value::Bool)
            .ok_or_else(|| syntax("ParseBool")),
        Kind::Int => parse_int(text).map(Value::Int),
        Kind::Float => text.parse().map(Value::Float).map_err(|_| syntax("ParseFloat")),
        Kind::Duration => GoDuration::parse(text)
            .map(Value::Duration)
            .map_err(|e| e.to_string()),
        Kind::Text => Ok(Value::Text(text.to_owned())),
        Kind::IntList => {
            let number = |part: &str| {
                part.parse::<i64>()
                    .map_err(|_| format!("strconv.Atoi: parsing {part:?}: invalid syntax"))
            };
            text.split(',')
                .map(number)
                .collect::<Result<_, _>>()
                .map(Value::IntList)
        }
    }
}

/// The words Go takes for a boolean.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `ParseInt(text, 0, 64)`.
fn parse_int(text: &str) -> Result<i64, String> {
    let error = |what: &str| format!("strconv.ParseInt: parsing {text:?}: {what}");
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, body, prefixed) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..], true),
        Some("0o") => (8, &lower[2..], true),
        Some("0b") => (2, &lower[2..], true),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..], true),
        _ => (10, &*lower, false),
    };
    // Underscores stand between digits, or between a base prefix and a digit.
    let misplaced = body.ends_with('_') || body.contains("__") || (!prefixed && body.starts_with('_'));
    let plain: String = body.chars().filter(|c| *c != '_').collect();
    if misplaced || plain.is_empty() || !plain.chars().all(|c| c.is_digit(base)) {
        return Err(error("invalid syntax"));
    }
    let magnitude = i128::from_str_radix(&plain, base).map_err(|_| error("value out of range"))?;
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| error("value out of range"))
}

impl Parsed {
    /// Was the flag given on the command line?
    pub fn is_set(&self, name: &str) -> bool {
        self.set.contains(name)
    }

    /// Value of any flag, as it would be written; empty when there is no such flag.
    pub fn written(&self, name: &str) -> String {
        match self.values.get(name) {
            Some(Value::Bool(b)) => b.to_string(),
            Some(Value::Int(i)) => i.to_string(),
            Some(Value::Float(f)) => f.to_string(),
            Some(Value::Duration(d)) => d.to_string(),
            Some(Value::IntList(l)) => l.iter().map(i64::to_string).collect::<Vec<_>>().join(","),
            Some(Value::Text(t)) => t.clone(),
            None => String::new(),
        }
    }

    /// Value of a boolean flag.
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.values.get(name), Some(Value::Bool(true)))
    }

    /// Value of an integer flag.
    pub fn int(&self, name: &str) -> i64 {
        if let Some(Value::Int(i)) = self.values.get(name) {
            *i
        } else {
            0
        }
    }

    /// Value of a floating-point flag.
    pub fn float(&self, name: &str) -> f64 {
        if let Some(Value::Float(f)) = self.values.get(name) {
            *f
        } else {
            0.0
        }
    }

    /// Value of a duration flag.
    pub fn duration(&self, name: &str) -> GoDuration {
        if let Some(Value::Duration(d)) = self.values.get(name) {
            *d
        } else {
            GoDuration(0)
        }
    }

    /// Value of a list flag.
    pub fn ints(&self, name: &str) -> &[i64] {
        if let Some(Value::IntList(l)) = self.values.get(name) {
            l
        } else {
            &[]
        }
    }

    /// Value of a text flag.
    pub fn text(&self, name: &str) -> &str {
        if let Some(Value::Text(t)) = self.values.get(name) {
            t
        } else {
            ""
        }
    }
}

/// The text of `--help`: flags by group in table order, deprecated ones left out.
pub fn help(program: &str, flags: &[Flag]) -> String {
    let mut out = format!("Usage of {program}:\n");
    let mut groups: Vec<&str> = Vec::new();
    for flag in flags {
        if !groups.contains(&flag.group) {
            groups.push(flag.group);
        }
    }
    for group in groups {
        let shown: Vec<&Flag> = flags
            .iter()
            .filter(|f| f.group == group && f.deprecated.is_none())
            .collect();
        if shown.is_empty() {
            continue;
        }
        let _ = write!(out, "\n{group}:\n");
        let width = shown.iter().map(|f| head(f).len()).max().unwrap_or(0);
        for flag in shown {
            let zero = matches!((flag.kind, flag.default), (_, "" | "0" | "0s" | "false"));
            let default = match flag.kind {
                _ if zero => String::new(),
                Kind::Text => format!(" (default {:?})", flag.default),
                _ => format!(" (default {})", flag.default),
            };
            let ours = if flag.ours { " [ours]" } else { "" };
            let _ = writeln!(out, "{:width$}   {}{default}{ours}", head(flag), flag.help);
        }
    }
    out
}

fn head(flag: &Flag) -> String {
    let kind = match flag.kind {
        Kind::Bool => "",
        Kind::Int => " int",
        Kind::Float => " float",
        Kind::Duration => " duration",
        Kind::IntList => " ints",
        Kind::Text => " string",
    };
    match flag.short {
        Some(short) => format!("  -{short}, --{}{kind}", flag.name),
        None => format!("      --{}{kind}", flag.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn flag(name: &'static str, kind: Kind, default: &'static str) -> Flag {
        super::flag(name, kind, default, "G", "h")
    }

    static FLAGS: [Flag; 7] = [
        flag("port", Kind::Int, "9002"),
        flag("on", Kind::Bool, "true"),
        flag("name", Kind::Text, ""),
        flag("every", Kind::Duration, "50ms"),
        flag("ports", Kind::IntList, ""),
        Flag {
            short: Some('v'),
            ..flag("v", Kind::Int, "0")
        },
        Flag {
            deprecated: Some("gone"),
            ..flag("old", Kind::Int, "0")
        },
    ];

    fn run(line: &str) -> (Parsed, Option<Stop>) {
        let args: Vec<OsString> = line
            .split(' ')
            .filter(|w| !w.is_empty())
            .map(OsString::from)
            .collect();
        parse(&FLAGS, &args)
    }

    #[test]
    fn values_in_every_form() {
        let (p, stop) =
            run("x --port 0x10 --on=F --name= --every=1h -v=3 - --ports 80,443 --ports 9 --port=0x3_e8");
        assert_eq!(stop, None);
        assert_eq!(
            (p.int("port"), p.bool("on"), p.text("name"), p.int("v")),
            (1000, false, "", 3)
        );
        assert_eq!(p.duration("every"), GoDuration::parse("1h").unwrap());
        assert_eq!(p.ints("ports"), [80, 443, 9]);
        assert!(p.is_set("name") && !p.is_set("old"));
        assert!(p.notes.is_empty());
    }

    #[test]
    fn verbosity_forms_and_values_that_begin_with_a_dash() {
        for (line, v) in [
            ("-v3", 3),
            ("-v=3", 3),
            ("-v 3", 3),
            ("--v=3", 3),
            ("--v 3", 3),
            ("-v -1", -1),
        ] {
            let (p, stop) = run(line);
            assert_eq!((p.int("v"), stop), (v, None), "{line}");
        }
    }

    #[test]
    fn the_word_after_a_boolean_is_left_behind_with_a_warning() {
        let (p, stop) = run("--on=false --on false");
        assert_eq!((p.bool("on"), stop, p.notes.len()), (true, None, 1));
    }

    #[test]
    fn usage_errors_have_the_texts_of_pflag() {
        let rows = [
            ("--foo", "unknown flag: --foo"),
            ("--foo=1", "unknown flag: --foo"),
            ("-grpc-port=1", "unknown shorthand flag: 'g' in -grpc-port=1"),
            ("--port", "flag needs an argument: --port"),
            ("-v", "flag needs an argument: 'v' in -v"),
            ("---x", "bad flag syntax: ---x"),
            ("--=x", "bad flag syntax: --=x"),
            (
                "--port=x",
                "invalid argument \"x\" for \"--port\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                "-vvv",
                "invalid argument \"vv\" for \"-v, --v\" flag: strconv.ParseInt: parsing \"vv\": invalid syntax",
            ),
            (
                "--on=yes",
                "invalid argument \"yes\" for \"--on\" flag: strconv.ParseBool: parsing \"yes\": invalid syntax",
            ),
            (
                "--every 50",
                "invalid argument \"50\" for \"--every\" flag: time: missing unit in duration \"50\"",
            ),
            (
                "--ports 80,a",
                "invalid argument \"80,a\" for \"--ports\" flag: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            (
                "--ports=",
                "invalid argument \"\" for \"--ports\" flag: strconv.Atoi: parsing \"\": invalid syntax",
            ),
            (
                "--port=9223372036854775808",
                "invalid argument \"9223372036854775808\" for \"--port\" flag: strconv.ParseInt: parsing \"9223372036854775808\": value out of range",
            ),
        ];
        for (line, text) in rows {
            assert_eq!(run(line).1, Some(Stop::Usage(text.into())), "{line}");
        }
        assert_eq!(run("-h").1, Some(Stop::Help));
        assert_eq!(run("--help").1, Some(Stop::Help));
    }

    #[test]
    fn parsing_ends_at_two_dashes_and_deprecations_are_noted_in_order() {
        let (p, stop) = run("--old 1 -- --foo");
        assert_eq!(
            (stop, p.notes),
            (None, vec!["Flag --old has been deprecated, gone".to_owned()])
        );
    }

    #[test]
    fn integers_in_every_base() {
        for (text, value) in [
            ("010", Some(8)),
            ("0b11", Some(3)),
            ("0o17", Some(15)),
            ("-0x1F", Some(-31)),
            ("0_7", Some(7)),
            ("1_0", Some(10)),
            ("_1", None),
            ("1__0", None),
            ("1_", None),
            ("09", None),
            ("", None),
        ] {
            assert_eq!(parse_int(text).ok(), value, "{text}");
        }
    }

    #[test]
    fn help_shows_groups_defaults_and_nothing_deprecated() {
        let text = help("epp", &FLAGS);
        assert!(text.starts_with("Usage of epp:\n\nG:\n"));
        assert!(text.contains("--port int ") && text.contains("(default 9002)") && !text.contains("old"));
    }

    proptest! {
        #[test]
        fn arbitrary_command_lines_never_panic(words in prop::collection::vec("(-{0,3}[a-z=0-9]{0,6}|\\PC{0,4})", 0..6)) {
            let args: Vec<OsString> = words.iter().map(OsString::from).collect();
            let _ = parse(&FLAGS, &args);
        }
    }
}
