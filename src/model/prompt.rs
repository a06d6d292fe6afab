//! The prompt of a request: slices of the body, read in one spelling of their escapes.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;

use crate::base::json_escape;

/// The text that fills a model's prefix cache, as slices of the body in prompt order.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// The body the segments point into.
    pub bytes: Bytes,
    /// Byte ranges of `bytes`, in prompt order: JSON, or what is between the quotes of a JSON string.
    pub segments: Vec<Range<usize>>,
    /// Separates the caches of tenants; empty when absent. What is between the quotes of its JSON string.
    pub cache_salt: Range<usize>,
}

/// Bytes that are looked through or respelled before a piece of text is handed on.
const PIECE: usize = 1024;

/// Longest character in the one spelling: `\u001f`.
const MAX_CHARACTER: usize = 6;

impl Prompt {
    /// Calls `each` with the text in order, in pieces, until it breaks. Texts that differ only in their escapes
    /// (`\u00e9` and `é`) give the same bytes, texts that differ otherwise do not: quotes, backslashes and control
    /// characters keep their shortest escape, all else is UTF-8. Nothing is copied before the first escape that
    /// has another spelling.
    pub fn text(&self, mut each: impl FnMut(&[u8]) -> ControlFlow<()>) {
        for segment in &self.segments {
            let raw = self.bytes.get(segment.clone()).unwrap_or_default();
            if respell(raw, &mut each).is_break() {
                return;
            }
        }
    }

    /// Calls `each` with the cache salt in pieces, in the spelling of [`text`](Self::text).
    pub fn salt(&self, mut each: impl FnMut(&[u8])) {
        let raw = self.bytes.get(self.cache_salt.clone()).unwrap_or_default();
        let _done = respell(raw, &mut |piece| {
            each(piece);
            ControlFlow::Continue(())
        });
    }
}

fn respell(raw: &[u8], each: &mut impl FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
    let mut from = 0;
    while from < raw.len() {
        let run = run(&raw[from..]);
        if run > 0 {
            each(&raw[from..from + run])?;
            from += run;
        } else {
            from += respelled(&raw[from..], each)?;
        }
    }
    ControlFlow::Continue(())
}

/// Bytes at the beginning of `raw` that are in the one spelling already; about [`PIECE`] at most, so that nothing
/// is read ahead of what is asked for.
fn run(raw: &[u8]) -> usize {
    let mut at = 0;
    while at < PIECE {
        let window = &raw[at..raw.len().min(PIECE)];
        let Some(escape) = memchr::memchr(b'\\', window) else {
            return at + window.len();
        };
        at += escape;
        if let Some(b'u' | b'/') = raw.get(at + 1) {
            return at;
        }
        at = raw.len().min(at + 2);
        if at == raw.len() {
            return at;
        }
    }
    at
}

/// Hands on a piece that begins with an escape of another spelling, respelled. Returns how many bytes of `raw`
/// it was.
fn respelled(raw: &[u8], each: &mut impl FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<(), usize> {
    let mut piece = [0; PIECE];
    let (mut from, mut len) = (0, 0);
    while from < raw.len() && len + MAX_CHARACTER <= PIECE {
        let room = &mut piece[len..len + MAX_CHARACTER];
        let (taken, written) = match raw[from] {
            b'\\' => match json_escape::read(&raw[from..]) {
                Some((c, taken)) => (taken, spell(c, room)),
                None => (1, copy(b"\\", room)),
            },
            byte => (1, copy(&[byte], room)),
        };
        from += taken;
        len += written;
    }
    each(&piece[..len])?;
    ControlFlow::Continue(from)
}

/// Writes the one spelling of `c`.
fn spell(c: char, room: &mut [u8]) -> usize {
    match c {
        '"' => copy(br#"\""#, room),
        '\\' => copy(br"\\", room),
        '\n' => copy(br"\n", room),
        '\r' => copy(br"\r", room),
        '\t' => copy(br"\t", room),
        '\u{8}' => copy(br"\b", room),
        '\u{c}' => copy(br"\f", room),
        '\0'..' ' => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            let code = c as usize;
            copy(&[b'\\', b'u', b'0', b'0', HEX[code >> 4], HEX[code & 15]], room)
        }
        _ => c.encode_utf8(room).len(),
    }
}

fn copy(bytes: &[u8], room: &mut [u8]) -> usize {
    room[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prompt(raw: &str) -> Prompt {
        Prompt {
            bytes: Bytes::copy_from_slice(raw.as_bytes()),
            segments: std::iter::once(0..raw.len()).collect(),
            cache_salt: 0..raw.len(),
        }
    }

    fn text(raw: &str) -> String {
        let mut all = Vec::new();
        prompt(raw).text(|piece| {
            all.extend_from_slice(piece);
            ControlFlow::Continue(())
        });
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn escapes_have_one_spelling() {
        for (raw, expected) in [
            ("", ""),
            ("plain", "plain"),
            (r"caf\u00e9", "café"),
            (r"\u0041\/b", "A/b"),
            (r"\ud83d\ude00 \uD83D\uDE00", "😀 😀"),
            (r"a\nb\u000ac\u0022\u005c", r#"a\nb\nc\"\\"#),
            (r"\\u0041 \\/", r"\\u0041 \\/"),
            (r"\u001F\u0008\u000c\u000d\u0009", r"\u001f\b\f\r\t"),
            (r"\ud83d lone", "\u{fffd} lone"),
            (r#"[{"text":"\u0068i"}]"#, r#"[{"text":"hi"}]"#),
            (r"ends in \", r"ends in \"),
            (r"\u00e9 ends in \u00", r"é ends in \u00"),
        ] {
            assert_eq!(text(raw), expected, "{raw}");
        }
    }

    #[test]
    fn no_more_is_read_than_is_asked_for() {
        for raw in [
            "a".repeat(1 << 20),
            r"\n".repeat(1 << 19),
            r"\u00e9".repeat(1 << 17),
        ] {
            let mut seen = 0;
            prompt(&raw).text(|piece| {
                seen += piece.len();
                if seen >= 4096 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            assert!((4096..4096 + 2 * PIECE).contains(&seen), "{seen} of {:.6}", raw);
        }
    }

    /// Each character as it is or as an escape, as the flags say.
    fn spelled(text: &str, flags: &[bool]) -> String {
        let plain = |c: char| !matches!(c, '"' | '\\' | '\0'..' ');
        text.chars()
            .zip(flags.iter().cycle())
            .map(|(c, escape)| match escape {
                false if plain(c) => c.to_string(),
                _ => c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .map(|u| format!("\\u{u:04x}"))
                    .collect(),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn texts_are_equal_when_their_characters_are(
            a in prop::collection::vec(any::<char>(), 0..1500), b in "\\PC{0,3}",
            one in prop::collection::vec(any::<bool>(), 1..50), other in prop::collection::vec(any::<bool>(), 1..50),
        ) {
            let a: String = a.into_iter().collect();
            let json = serde_json::to_string(&a).unwrap();
            let json = &json[1..json.len() - 1];
            prop_assert_eq!(text(&spelled(&a, &one)), text(&spelled(&a, &other)));
            prop_assert_eq!(text(&spelled(&a, &one)), text(json));
            prop_assert_eq!(&serde_json::from_str::<String>(&format!("\"{}\"", text(json))).unwrap(), &a);
            prop_assert_eq!(text(json) == text(&spelled(&b, &one)), a == b);
        }

        #[test]
        fn any_bytes_are_text(raw in r#"[a\\u/0"n]{0,40}"#) {
            text(&raw);
        }
    }
}
