//! Escape sequences of JSON strings, decoded one at a time.

/// Reads the escape sequence at the beginning of `rest`, which starts with its backslash. Returns the character
/// it stands for and the number of its bytes. Two escaped surrogates that belong together are one character; a
/// lone one stands for U+FFFD. `None` when this is no escape sequence of JSON.
pub fn read(rest: &[u8]) -> Option<(char, usize)> {
    let plain = match rest.get(1)? {
        same @ (b'"' | b'\\' | b'/') => char::from(*same),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(rest),
        _ => return None,
    };
    Some((plain, 2))
}

fn unicode(rest: &[u8]) -> Option<(char, usize)> {
    let first = code_unit(rest)?;
    if !(0xD800..0xE000).contains(&first) {
        return Some((char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 6));
    }
    let second = rest.get(6..).and_then(code_unit);
    let pair = second.filter(|s| first < 0xDC00 && (0xDC00..0xE000).contains(s));
    let joined = pair.and_then(|s| char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + (s - 0xDC00)));
    Some(joined.map_or((char::REPLACEMENT_CHARACTER, 6), |c| (c, 12)))
}

/// The number of `\uXXXX`.
fn code_unit(rest: &[u8]) -> Option<u32> {
    let digits = rest.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| {
        Some(unit << 4 | char::from(*digit).to_digit(16)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_escape_is_its_character() {
        for (escape, expected) in [
            (r#"\"x"#, Some(('"', 2))),
            (r"\\", Some(('\\', 2))),
            (r"\/", Some(('/', 2))),
            (r"\b", Some(('\u{8}', 2))),
            (r"\f", Some(('\u{c}', 2))),
            (r"\n", Some(('\n', 2))),
            (r"\r", Some(('\r', 2))),
            (r"\t", Some(('\t', 2))),
            (r"\u00e9\u00e9", Some(('é', 6))),
            (r"\u00E9", Some(('é', 6))),
            (r"\u0000", Some(('\0', 6))),
            (r"\ud83d\ude00x", Some(('😀', 12))),
            (r"\ud83d", Some(('\u{fffd}', 6))),
            (r"\ud83d\n", Some(('\u{fffd}', 6))),
            (r"\ud83d\ud83d\ude00", Some(('\u{fffd}', 6))),
            (r"\ude00\ud83d", Some(('\u{fffd}', 6))),
            (r"\u00e", None),
            (r"\u00eg", None),
            (r"\u+0e9", None),
            (r"\x", None),
            (r"\", None),
            ("", None),
        ] {
            assert_eq!(read(escape.as_bytes()), expected, "{escape}");
        }
    }
}
