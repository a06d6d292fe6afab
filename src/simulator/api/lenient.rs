//! Reads JSON as Go's `encoding/json` does, so that every body the reference takes is taken here: the names of fields in
//! any case, the last of several values for one field, and U+FFFD for what is no Unicode. Called by
//! [`crate::simulator::http`] for every body; limits of lists are those of the types that are read
//! ([`super::bounded`]).

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess,
    Visitor,
};
use serde_json::value::RawValue;

/// Reads an object.
///
/// # Errors
/// It is none, or of another shape; the text says where.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if first.is_some_and(|b| *b != b'{') {
        return Err(serde_json::Error::custom("it must be a JSON object"));
    }
    let text = mended(bytes);
    let mut whole = serde_json::Deserializer::from_str(&text);
    let value = T::deserialize(Lenient(&mut whole))?;
    whole.end()?;
    Ok(value)
}

/// The text with U+FFFD for each byte that is no UTF-8 and for each escaped surrogate that is not one of a pair.
fn mended(bytes: &[u8]) -> Cow<'_, str> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let mut text = String::with_capacity(bytes.len() + bytes.len() / 8);
            for chunk in bytes.utf8_chunks() {
                text.push_str(chunk.valid());
                chunk.invalid().iter().for_each(|_| text.push('\u{fffd}'));
            }
            Cow::Owned(text)
        }
    };
    let Some(first) = lone_surrogate(text.as_bytes(), 0) else {
        return text;
    };
    let mut bytes = text.into_owned().into_bytes();
    let mut next = Some(first);
    while let Some(at) = next {
        bytes[at..at + ESCAPE].copy_from_slice(b"\\ufffd");
        next = lone_surrogate(&bytes, at + ESCAPE);
    }
    // ASCII has been put where ASCII was.
    Cow::Owned(String::from_utf8(bytes).unwrap_or_default())
}

/// Bytes of an escape: `\uXXXX`.
const ESCAPE: usize = 6;

/// Where the first escaped surrogate from `at` on stands that is not one of a pair. A backslash begins an escape wherever
/// it may stand in JSON.
fn lone_surrogate(text: &[u8], mut at: usize) -> Option<usize> {
    while let Some(next) = text.get(at..)?.iter().position(|b| *b == b'\\') {
        at += next;
        at += match unit(text, at) {
            Some(0xd800..=0xdbff) if matches!(unit(text, at + ESCAPE), Some(0xdc00..=0xdfff)) => 2 * ESCAPE,
            Some(0xd800..=0xdfff) => return Some(at),
            Some(_) => ESCAPE,
            None => 2,
        };
    }
    None
}

/// The UTF-16 unit that is escaped at `at`.
fn unit(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at + ESCAPE)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| {
        Some(unit << 4 | char::from(*digit).to_digit(16)?)
    })
}

/// Is `name`, as sent, that of the field? Letters that fold to ASCII's beyond ASCII are the long s and the sign of
/// Kelvin.
fn names(name: &str, field: &str) -> bool {
    let folded = name.chars().map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    });
    folded.eq(field.chars().map(|c| c.to_ascii_lowercase()))
}

/// A deserializer whose structs are read by these rules, at any depth.
struct Lenient<D>(D);

/// Forwards methods of a deserializer whose visitors may meet structs further in.
macro_rules! forward {
    ($($method:ident($($name:ident: $kind:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($name,)* Lenient(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Lenient<D> {
    type Error = D::Error;

    forward! {
        deserialize_any();
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_seq();
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_map();
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier();
        deserialize_ignored_any();
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        // A value that is kept as it stands asks for it by a name of serde_json's own.
        if name.starts_with("$serde_json") {
            self.0.deserialize_newtype_struct(name, visitor)
        } else {
            self.0.deserialize_newtype_struct(name, Lenient(visitor))
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let last = self.0.deserialize_any(Fields(fields))?;
        visitor.visit_map(Found {
            next: last.into_iter(),
            value: None,
            error: PhantomData,
        })
    }
}

/// Collects the last value of each field.
struct Fields(&'static [&'static str]);

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(&'static str, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut last: Self::Value = Vec::new();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let Some(field) = self.0.iter().find(|field| names(&name, field)) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value()?;
            match last.iter_mut().find(|(known, _)| known == field) {
                Some((_, before)) => *before = value,
                None => last.push((field, value)),
            }
        }
        Ok(last)
    }
}

/// The fields as they are handed to a struct.
struct Found<'de, E> {
    next: std::vec::IntoIter<(&'static str, &'de RawValue)>,
    value: Option<(&'static str, &'de RawValue)>,
    error: PhantomData<E>,
}

impl<'de, E: Error> MapAccess<'de> for Found<'de, E> {
    type Error = E;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, E> {
        self.value = self.next.next();
        let Some((name, _)) = self.value else {
            return Ok(None);
        };
        seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, E> {
        let Some((name, value)) = self.value.take() else {
            return Err(E::custom("a value without a name"));
        };
        let mut inner = serde_json::Deserializer::from_str(value.get());
        seed.deserialize(Lenient(&mut inner)).map_err(|error| {
            // Its line and column are within the value.
            let text = error.to_string();
            let what = text
                .rsplit_once(" at line ")
                .map_or(text.as_str(), |(what, _)| what);
            E::custom(format_args!("{name}: {what}"))
        })
    }
}

/// Forwards what is found to a visitor that may meet structs further in.
impl<'de, V: Visitor<'de>> Visitor<'de> for Lenient<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<V::Value, E> {
        self.0.visit_bool(v)
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<V::Value, E> {
        self.0.visit_i64(v)
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<V::Value, E> {
        self.0.visit_u64(v)
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<V::Value, E> {
        self.0.visit_f64(v)
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<V::Value, E> {
        self.0.visit_str(v)
    }

    fn visit_borrowed_str<E: Error>(self, v: &'de str) -> Result<V::Value, E> {
        self.0.visit_borrowed_str(v)
    }

    fn visit_string<E: Error>(self, v: String) -> Result<V::Value, E> {
        self.0.visit_string(v)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Lenient(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Lenient(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Lenient(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Lenient(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(data)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Lenient<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Lenient(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Lenient<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Lenient(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Lenient<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Lenient(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::simulator::api::request::{Content, Logprobs, Part, Request};
    use crate::simulator::api::{Prompt, ToolChoice};

    fn request(text: &str) -> Request {
        read(text.as_bytes()).unwrap()
    }

    #[test]
    fn names_of_fields_are_known_in_any_case() {
        let request = request(
            r#"{"MODEL":"m","Stream":true,"Stream_Options":{"Include_Usage":true},"mes\u017fa\u0047es":
                [{"ROLE":"user","Content":[{"TEXT":"a"}]}],"\u212av_transfer_params":{"DO_remote_decode":true}}"#,
        );
        assert_eq!(
            (request.model.as_deref(), request.stream),
            (Some("m"), Some(true))
        );
        assert!(request.include_usage());
        let message = &request.messages.unwrap().0[0];
        assert_eq!(message.role.as_deref(), Some("user"));
        let part = Part {
            text: Some("a".into()),
        };
        assert_eq!(message.content, Some(Content::Parts(vec![part])));
        assert_eq!(request.kv_transfer_params.unwrap().do_remote_decode, Some(true));
    }

    #[test]
    fn the_last_of_several_values_counts() {
        let request = request(
            r#"{"model":"a","n":1,"Model":"b","model":"c","MODEL":"d","messages":[{"content":"x","content":"y"}],
                "messages":[{"role":"r","role":"s"}],"n":2,"max_tokens":"not read","max_tokens":3}"#,
        );
        assert_eq!(
            (request.model.as_deref(), request.n, request.max_tokens),
            (Some("d"), Some(2), Some(3))
        );
        let messages = request.messages.unwrap().0;
        assert_eq!((messages.len(), messages[0].role.as_deref()), (1, Some("s")));
        assert!(messages[0].content.is_none());
    }

    #[test]
    fn what_is_no_unicode_is_replaced() {
        let rows: [(&[u8], &str); 8] = [
            (b"a\xffb", "a\u{fffd}b"),
            // Each byte by itself.
            (b"\xe2\x82A\xf0\x9f", "\u{fffd}\u{fffd}A\u{fffd}\u{fffd}"),
            (br"\ud83d\ude00", "\u{1f600}"),
            (br"a\ud800b", "a\u{fffd}b"),
            (br"\udc00\uD800\ud83d\ude00", "\u{fffd}\u{fffd}\u{1f600}"),
            (br"\ud800\n\ud800", "\u{fffd}\n\u{fffd}"),
            // An escaped backslash is no escape.
            (br"\\ud800", "\\ud800"),
            (br"\ud800\\udc00", "\u{fffd}\\udc00"),
        ];
        for (sent, expected) in rows {
            let body = [b"{\"prompt\":\"", sent, b"\"}"].concat();
            let request: Request = read(&body).unwrap();
            assert_eq!(
                request.prompt,
                Some(Prompt::Text(expected.to_owned())),
                "{sent:?}"
            );
        }
    }

    #[test]
    fn what_is_free_in_form_keeps_its_names() {
        let request = request(r#"{"Tools":[{"Function":{"Parameters":{"B":"\ud800"}}}],"logprobs":2}"#);
        let tools: Value = serde_json::from_str(request.tools.unwrap().get()).unwrap();
        assert_eq!(tools, json!([{"Function": {"Parameters": {"B": "\u{fffd}"}}}]));
        assert_eq!(request.logprobs, Some(Logprobs::Count(2)));
        let map: serde_json::Map<String, Value> = read(br#"{"B":1,"b":{"C":[2]},"B":3}"#).unwrap();
        assert_eq!(Value::Object(map), json!({"B": 3, "b": {"C": [2]}}));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let rows = [
            (
                r#"{"stream":"yes"}"#,
                "stream: invalid type: string \"yes\", expected a boolean",
            ),
            (
                r#"{"messages":[{"role":1}]}"#,
                "messages: role: invalid type: integer `1`, expected a string",
            ),
            (
                r#"{"model":"m""#,
                "EOF while parsing an object at line 1 column 12",
            ),
            ("[]", "it must be a JSON object"),
            ("{} {}", "trailing characters at line 1 column 4"),
            (r#"{"prompt":"\ud8"}"#, "invalid escape at line 1 column 17"),
        ];
        for (text, expected) in rows {
            let error = read::<Request>(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read::<Request>(&bytes);
        }

        /// What serde reads is read the same, as long as each name is there once.
        #[test]
        fn whole_json_is_read_as_by_serde(
            model in ".{0,9}", prompt in "\\PC{0,20}", n: i64, stream: bool, other in "[a-z]{9}",
        ) {
            let body = json!({"model": model, "prompt": prompt, "n": n, "stream": stream, other: [{}],
                "tool_choice": {"type": "function", "function": {"name": prompt}}}).to_string();
            let read = read::<Request>(body.as_bytes()).unwrap();
            let by_serde: Request = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(format!("{read:?}"), format!("{by_serde:?}"));
            prop_assert_eq!(read.tool_choice, Some(ToolChoice::Named(prompt)));
        }

        /// A mended text holds no lone surrogate: serde, which refuses those, takes the string.
        #[test]
        fn any_string_is_taken(parts in prop::collection::vec(
            prop::sample::select(&["\\ud800", "\\uDFFF", "\\\\", "\\n", "u", "d800", "x", "\\u0041"][..]), 0..12)
        ) {
            let body = format!("{{\"prompt\":\"{}\"}}", parts.concat());
            prop_assert!(read::<Request>(body.as_bytes()).is_ok(), "{}", body);
        }
    }
}
