//! Texts as tokens: the simple tokenizer (simulator.md §5.3), or a model's own `tokenizer.json` from a local folder.
//! Called by everything that counts, repeats or shows tokens; never asks a network.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer as Model;

/// Largest tokenizer file read, bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A text and where its tokens end: the tokens joined are the text. Or ids alone, where nobody asks for a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    text: String,
    /// Byte after each token, ascending.
    ends: Vec<u32>,
    /// Ids the tokenizer gave, one a token; empty: the ids are those of the simple tokenizer.
    ids: Vec<u32>,
}

impl Tokens {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ends.len().max(self.ids.len())
    }

    /// No token at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The token of this number; empty past the end.
    pub fn get(&self, at: usize) -> &str {
        let Some(end) = self.ends.get(at) else { return "" };
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(start as usize..*end as usize).unwrap_or("")
    }

    /// The tokens in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// The id of the token of this number.
    pub fn id(&self, at: usize) -> Option<u32> {
        if self.ids.is_empty() {
            (at < self.len()).then(|| fnv1a(self.get(at)))
        } else {
            self.ids.get(at).copied()
        }
    }

    /// The ids in order.
    pub fn ids(&self) -> Vec<u32> {
        let mut out = Vec::with_capacity(self.len());
        self.add_ids(&mut out);
        out
    }

    /// Appends the ids in order.
    pub fn add_ids(&self, out: &mut Vec<u32>) {
        if self.ids.is_empty() {
            out.extend(self.iter().map(fnv1a));
        } else {
            out.extend_from_slice(&self.ids);
        }
    }

    /// Adds a token; its id is that of the simple tokenizer.
    pub fn push(&mut self, token: &str) {
        if self.ids.len() == self.ends.len() && !self.ids.is_empty() {
            self.ids.push(fnv1a(token));
        }
        self.text.push_str(token);
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
    }

    /// Adds the first `n` tokens of `other`, ids and all.
    pub fn append(&mut self, other: &Tokens, n: usize) {
        let n = n.min(other.len());
        if !(self.ids.is_empty() && other.ids.is_empty()) {
            if self.ids.is_empty() {
                self.ids = self.iter().map(fnv1a).collect();
            }
            self.ids.extend(other.ids().iter().take(n));
        }
        for token in other.iter().take(n) {
            self.text.push_str(token);
            self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
        }
    }

    /// Keeps the first `n` tokens.
    pub fn truncate(&mut self, n: usize) {
        self.ends.truncate(n);
        self.ids.truncate(n);
        self.text
            .truncate(self.ends.last().map_or(0, |end| *end as usize));
    }

    /// Token ids alone: each is an empty text.
    pub fn of_ids(ids: Vec<u32>) -> Self {
        Tokens {
            ids,
            ..Tokens::default()
        }
    }

    /// Token ids, shown as numbers with commas between them.
    pub fn shown_ids(ids: Vec<u32>) -> Self {
        let mut text = String::with_capacity(ids.len() * 7);
        let mut ends = Vec::with_capacity(ids.len());
        for id in &ids {
            text.push_str(itoa::Buffer::new().format(*id));
            text.push(',');
            ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
        }
        text.pop();
        if let Some(last) = ends.last_mut() {
            *last -= 1;
        }
        Tokens { text, ends, ids }
    }
}

impl<'a> FromIterator<&'a str> for Tokens {
    fn from_iter<I: IntoIterator<Item = &'a str>>(parts: I) -> Self {
        let mut tokens = Tokens::default();
        parts.into_iter().for_each(|part| tokens.push(part));
        tokens
    }
}

/// How texts become tokens.
pub enum Tokenizer {
    /// The simple one.
    Simple,
    /// A model's own.
    Model(Box<Model>),
}

/// A tokenizer file that is there and cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the tokenizer {}: {what}; repair or remove the file, or give --force-dummy-tokenizer", .path.display())]
pub struct TokenizerError {
    path: PathBuf,
    what: String,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Tokenizer::Simple => "Simple",
            Tokenizer::Model(_) => "Model",
        })
    }
}

impl Tokenizer {
    /// The model's own tokenizer where a local folder has it, else the simple one. Looked at: `model` as a
    /// folder, `cache/model`, and the Hugging Face cache layout in `cache` and `cache/hub`, unless `cache` is empty. Also says which
    /// file.
    ///
    /// # Errors
    /// A file is there and cannot be read as a tokenizer.
    pub fn find(model: &str, cache: &Path) -> Result<(Self, Option<PathBuf>), TokenizerError> {
        let Some(path) = candidates(model, cache).into_iter().find(|p| p.is_file()) else {
            return Ok((Tokenizer::Simple, None));
        };
        let wrong = |what: String| TokenizerError {
            path: path.clone(),
            what,
        };
        let size = std::fs::metadata(&path).map_err(|e| wrong(e.to_string()))?.len();
        if size > MAX_FILE_BYTES {
            return Err(wrong(format!("larger than {MAX_FILE_BYTES} bytes")));
        }
        let model = Model::from_file(&path).map_err(|e| wrong(e.to_string()))?;
        Ok((Tokenizer::Model(Box::new(model)), Some(path)))
    }

    /// Cuts a text.
    pub fn cut(&self, text: String) -> Tokens {
        match self {
            Tokenizer::Simple => simple(text),
            // A text the model cannot cut (no unknown token, say) still has to be counted.
            Tokenizer::Model(model) => match model.encode(text.as_str(), false) {
                Ok(encoding) => cut_at(text, encoding.get_offsets(), encoding.get_ids()),
                Err(_) => simple(text),
            },
        }
    }
}

/// Where a tokenizer may be, best first.
fn candidates(model: &str, cache: &Path) -> Vec<PathBuf> {
    const FILE: &str = "tokenizer.json";
    let mut paths = vec![Path::new(model).join(FILE)];
    // A name that climbs out of the cache is not looked for there; an empty cache is none.
    if !cache.as_os_str().is_empty() && model.split('/').all(|part| !matches!(part, "" | "." | "..")) {
        paths.push(cache.join(model).join(FILE));
        let repository = format!("models--{}", model.replace('/', "--"));
        for root in [cache.to_owned(), cache.join("hub")] {
            let folder = root.join(&repository);
            let snapshots = folder.join("snapshots");
            if let Ok(revision) = std::fs::read_to_string(folder.join("refs/main")) {
                paths.push(snapshots.join(revision.trim()).join(FILE));
            }
            let entries = std::fs::read_dir(&snapshots).into_iter().flatten().flatten();
            let mut others: Vec<PathBuf> = entries.map(|e| e.path().join(FILE)).collect();
            others.sort();
            paths.extend(others);
        }
    }
    paths
}

/// Tokens of a model: each takes the text from the end of the one before it, so that nothing is lost between them.
fn cut_at(text: String, offsets: &[(usize, usize)], ids: &[u32]) -> Tokens {
    let mut ends = Vec::with_capacity(offsets.len());
    let mut reached = 0;
    for (_, end) in offsets {
        if *end > reached && text.is_char_boundary(*end) {
            reached = *end;
        }
        ends.push(u32::try_from(reached).unwrap_or(u32::MAX));
    }
    if let Some(last) = ends.last_mut() {
        *last = u32::try_from(text.len()).unwrap_or(u32::MAX);
    }
    if ends.is_empty() && !text.is_empty() {
        return simple(text);
    }
    Tokens {
        text,
        ends,
        ids: ids.to_vec(),
    }
}

/// The simple tokenizer: a run of ASCII letters, digits and underscores that does not begin with an underscore, or any
/// other single character, each with the ASCII white space after it. Nothing is dropped.
fn simple(text: String) -> Tokens {
    let mut ends = Vec::with_capacity(text.len() / 5);
    let bytes = text.as_bytes();
    let class = |at: usize| bytes.get(at).map_or(Class::End, |b| CLASSES[*b as usize]);
    let mut at = 0;
    while at < bytes.len() {
        // An underscore is a token of its own where a token begins, and part of the word further on.
        if class(at) == Class::Word && bytes[at] != b'_' {
            while class(at) == Class::Word {
                at += 1;
            }
        } else {
            // A character begins here: its first byte, then those that continue it.
            at += 1;
            while bytes.get(at).is_some_and(|b| b & 0xc0 == 0x80) {
                at += 1;
            }
        }
        while class(at) == Class::White {
            at += 1;
        }
        ends.push(u32::try_from(at).unwrap_or(u32::MAX));
    }
    Tokens {
        text,
        ends,
        ids: Vec::new(),
    }
}

/// What a byte is to the simple tokenizer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// ASCII letter, digit or underscore.
    Word,
    /// Space, tab, line feed, form feed or carriage return.
    White,
    /// Any other byte.
    Other,
    /// After the text.
    End,
}

/// The class of every byte: long prompts are cut at a byte a nanosecond or less.
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        let of = byte as u8;
        classes[byte] = match of {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => Class::Word,
            b'\t' | b'\n' | 0x0c | b'\r' | b' ' => Class::White,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

/// The simple tokenizer's id of a token: FNV-1a, 32 bits.
pub fn fnv1a(token: &str) -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    token.bytes().fold(2_166_136_261, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(text: &str) -> Tokens {
        Tokenizer::Simple.cut(text.to_owned())
    }

    #[test]
    fn tokens_and_ids_are_those_of_the_specification() {
        let ids = [
            ("Hello", 4116459851u32),
            (", ", 2312110321),
            ("world", 933488787),
            ("! ", 2344826916),
            ("It", 1189663280),
            ("s ", 4149321222),
            ("42 ", 2385207193),
            ("degrees", 2941534958),
            (".", 722245873),
        ];
        let tokens = cut("Hello, world! It's 42 degrees.");
        // The apostrophe is a token of its own here, where the reference drops it.
        let kept: Vec<(&str, u32)> = tokens
            .iter()
            .zip(tokens.ids())
            .filter(|(t, _)| *t != "'")
            .collect();
        assert_eq!(kept, ids);
        assert_eq!(cut(r#"{"location":"Boston","days":3}"#).len(), 15);
    }

    #[test]
    fn a_leading_underscore_is_a_token_of_its_own() {
        let rows: [(&str, &[&str]); 7] = [
            (
                "snake_case __init__ _x",
                &["snake_case ", "_", "_", "init__ ", "_", "x"],
            ),
            ("__init__", &["_", "_", "init__"]),
            ("_", &["_"]),
            ("a_ _", &["a_ ", "_"]),
            ("-_7", &["-", "_", "7"]),
            // White space is ASCII's without the vertical tab; any other is a character like others.
            ("a\u{a0}b\u{2003} c", &["a", "\u{a0}", "b", "\u{2003} ", "c"]),
            ("a\x0bb\x0c\r\n\t c", &["a", "\x0b", "b\x0c\r\n\t ", "c"]),
        ];
        for (text, expected) in rows {
            assert_eq!(cut(text).iter().collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn token_ids_are_shown_as_numbers() {
        let tokens = Tokens::shown_ids(vec![1, 22, 3]);
        assert_eq!(
            (tokens.text(), tokens.len(), tokens.ids()),
            ("1,22,3", 3, vec![1, 22, 3])
        );
    }

    #[test]
    fn without_a_file_the_simple_tokenizer_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let (tokenizer, path) = Tokenizer::find("org/model", folder.path()).unwrap();
        assert!(matches!(tokenizer, Tokenizer::Simple) && path.is_none());
    }

    const WORDS: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"[UNK]":0,"red":7,"fox":9},"unk_token":"[UNK]"}}"#;

    #[test]
    fn a_models_own_tokenizer_is_found_in_each_layout() {
        for layout in [
            "org/model/tokenizer.json",
            "models--org--model/snapshots/abc/tokenizer.json",
            "hub/models--org--model/snapshots/abc/tokenizer.json",
        ] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join(layout);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, WORDS).unwrap();
            let (tokenizer, path) = Tokenizer::find("org/model", folder.path()).unwrap();
            assert_eq!(path, Some(file));
            let tokens = tokenizer.cut("a red fox ".to_owned());
            assert_eq!(tokens.ids(), [0, 7, 9]);
            assert_eq!(tokens.iter().collect::<Vec<_>>(), ["a", " red", " fox "]);
        }
    }

    #[test]
    fn a_broken_tokenizer_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m/tokenizer.json");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "{").unwrap();
        let error = Tokenizer::find("m", folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("m/tokenizer.json") && error.contains("--force-dummy-tokenizer"),
            "{error}"
        );
        assert!(
            Tokenizer::find("../m", &folder.path().join("m"))
                .unwrap()
                .1
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn nothing_of_a_text_is_dropped(text in "(\\PC|\\s){0,80}") {
            let tokens = cut(&text);
            prop_assert_eq!(tokens.iter().collect::<String>(), text);
            prop_assert_eq!(tokens.ids().len(), tokens.len());
        }

        #[test]
        fn a_cut_is_a_prefix(text in "\\PC{0,80}", n in 0usize..50) {
            let mut tokens = cut(&text);
            tokens.truncate(n);
            prop_assert!(text.starts_with(tokens.text()) && tokens.len() <= n);
        }
    }
}
