//! ZMTP 3.0 (rfc.zeromq.org/spec/23) without security, as far as a small server that listens needs it: greeting,
//! commands, frames of messages. Bytes only; the simulator's replay socket moves them.

use bytes::{Buf, Bytes, BytesMut};

/// Size of a greeting.
pub const GREETING: usize = 64;

/// Largest frame taken, bytes: what is asked of us is short.
pub const MAX_FRAME: usize = 4096;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What a peer sends is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It does not begin as ZMTP does.
    #[error("no ZMTP greeting")]
    Greeting,
    /// It speaks a version before 3.
    #[error("ZMTP {0}, at least 3 is needed")]
    Version(u8),
    /// It wants to be authenticated.
    #[error("security mechanism {0:?}, only NULL is known")]
    Mechanism(String),
    /// A frame is too large.
    #[error("a frame of {0} bytes, at most {MAX_FRAME} are taken")]
    TooLarge(u64),
    /// A frame's flags or a command's fields make no sense.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A command: its name, its body.
    Command(Bytes, Bytes),
    /// A part of a message; `true`: more follow.
    Part(Bytes, bool),
}

/// Our greeting.
pub fn greeting() -> [u8; GREETING] {
    let mut out = [0; GREETING];
    (out[0], out[9], out[10]) = (0xff, 0x7f, 3);
    out[12..16].copy_from_slice(b"NULL");
    out
}

/// Is this a greeting of somebody we can talk to?
///
/// # Errors
/// It is not.
pub fn check_greeting(greeting: &[u8; GREETING]) -> Result<(), Wrong> {
    if greeting[0] != 0xff || greeting[9] & 1 == 0 {
        return Err(Wrong::Greeting);
    }
    if greeting[10] < 3 {
        return Err(Wrong::Version(greeting[10]));
    }
    let name = greeting[12..32].split(|b| *b == 0).next().unwrap_or_default();
    if name != b"NULL" {
        return Err(Wrong::Mechanism(String::from_utf8_lossy(name).into_owned()));
    }
    Ok(())
}

/// Takes the next frame off `bytes`; `None`: it is not whole yet, and `bytes` are as they were.
///
/// # Errors
/// What comes cannot be read, and nothing after it.
pub fn take_frame(bytes: &mut BytesMut) -> Result<Option<Frame>, Wrong> {
    let Some(flags) = bytes.first().copied() else {
        return Ok(None);
    };
    if flags & !(MORE | LONG | COMMAND) != 0 || flags & (MORE | COMMAND) == (MORE | COMMAND) {
        return Err(Wrong::Malformed("flags"));
    }
    let (head, length) = if flags & LONG == 0 {
        match bytes.get(1) {
            Some(length) => (2, u64::from(*length)),
            None => return Ok(None),
        }
    } else {
        match bytes.get(1..9).and_then(|b| b.try_into().ok()) {
            Some(length) => (9, u64::from_be_bytes(length)),
            None => return Ok(None),
        }
    };
    let size = usize::try_from(length).ok().filter(|n| *n <= MAX_FRAME);
    let size = size.ok_or(Wrong::TooLarge(length))?;
    if bytes.len() < head + size {
        return Ok(None);
    }
    bytes.advance(head);
    let mut body = bytes.split_to(size).freeze();
    if flags & COMMAND == 0 {
        return Ok(Some(Frame::Part(body, flags & MORE != 0)));
    }
    let name = take_short(&mut body).ok_or(Wrong::Malformed("command"))?;
    Ok(Some(Frame::Command(name, body)))
}

/// Bytes after their length in one byte.
fn take_short(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::from(*bytes.first()?);
    if bytes.len() <= length {
        return None;
    }
    bytes.advance(1);
    Some(bytes.split_to(length))
}

/// The command that ends a handshake, of a socket of this type.
pub fn ready(socket_type: &str) -> Vec<u8> {
    let mut body = b"\x0bSocket-Type".to_vec();
    body.extend_from_slice(&(socket_type.len() as u32).to_be_bytes());
    body.extend_from_slice(socket_type.as_bytes());
    command(b"READY", &body)
}

/// The answer to a PING of this body.
pub fn pong(ping: &[u8]) -> Vec<u8> {
    command(b"PONG", ping.get(2..).unwrap_or_default())
}

fn command(name: &[u8], body: &[u8]) -> Vec<u8> {
    let mut content = vec![name.len() as u8];
    content.extend_from_slice(name);
    content.extend_from_slice(body);
    let mut out = Vec::with_capacity(content.len() + 9);
    write_frame(&mut out, COMMAND, &content);
    out
}

/// The socket type in the body of a peer's READY.
///
/// # Errors
/// There is none, or the fields are no fields.
pub fn socket_type(ready: &Bytes) -> Result<Bytes, Wrong> {
    let mut rest = ready.clone();
    let wrong = Wrong::Malformed("READY");
    while !rest.is_empty() {
        let name = take_short(&mut rest).ok_or(wrong.clone())?;
        let length = rest.try_get_u32().map_err(|_| wrong.clone())? as usize;
        if rest.len() < length {
            return Err(wrong);
        }
        let value = rest.split_to(length);
        if name.eq_ignore_ascii_case(b"socket-type") {
            return Ok(value);
        }
    }
    Err(wrong)
}

/// Appends a message of these parts to `out`.
pub fn write_message(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for (i, part) in parts.iter().enumerate() {
        let more = if i + 1 < parts.len() { MORE } else { 0 };
        write_frame(out, more, part);
    }
}

fn write_frame(out: &mut Vec<u8>, flags: u8, body: &[u8]) {
    match u8::try_from(body.len()) {
        Ok(length) => out.extend_from_slice(&[flags, length]),
        Err(_) => {
            out.push(flags | LONG);
            out.extend_from_slice(&(body.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken(bytes: &[u8]) -> Result<Vec<Frame>, Wrong> {
        let mut bytes = BytesMut::from(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = take_frame(&mut bytes)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn only_greetings_of_our_version_and_mechanism_are_taken() {
        let ours = greeting();
        assert_eq!(check_greeting(&ours), Ok(()));
        let changed = |at: usize, byte: u8| {
            let mut greeting = ours;
            greeting[at] = byte;
            check_greeting(&greeting).unwrap_err()
        };
        assert_eq!(changed(0, b'G'), Wrong::Greeting);
        assert_eq!(changed(9, 0), Wrong::Greeting);
        assert_eq!(changed(10, 2), Wrong::Version(2));
        assert_eq!(changed(16, b'!'), Wrong::Mechanism("NULL!".to_owned()));
    }

    #[test]
    fn commands_are_read_as_they_are_written() {
        let frames = taken(&ready("ROUTER")).unwrap();
        let [Frame::Command(name, body)] = &frames[..] else {
            panic!("{frames:?}")
        };
        assert_eq!(&name[..], b"READY");
        assert_eq!(socket_type(body).unwrap(), "ROUTER");
        let frames = taken(&pong(b"\0\x01context")).unwrap();
        assert_eq!(frames, [Frame::Command("PONG".into(), "context".into())]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let long = |length: u64| [&[LONG][..], &length.to_be_bytes()].concat();
        let rows = [
            (vec![8, 0], Wrong::Malformed("flags")),
            (vec![COMMAND | MORE, 0], Wrong::Malformed("flags")),
            (vec![COMMAND, 0], Wrong::Malformed("command")),
            (vec![COMMAND, 2, 9, b'R'], Wrong::Malformed("command")),
            (long(4097), Wrong::TooLarge(4097)),
            (long(u64::MAX), Wrong::TooLarge(u64::MAX)),
        ];
        for (bytes, wrong) in rows {
            assert_eq!(taken(&bytes), Err(wrong), "{bytes:?}");
        }
        for body in [&b""[..], b"\x01", b"\x01a\0\0\0\x05b", b"\x01a\0\0\0\x01b"] {
            let body = Bytes::copy_from_slice(body);
            assert_eq!(socket_type(&body), Err(Wrong::Malformed("READY")), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 1..5),
            cut in 0usize..3000,
        ) {
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let mut wire = Vec::new();
            write_message(&mut wire, &parts);
            let (first, rest) = wire.split_at(cut.min(wire.len()));
            let mut bytes = BytesMut::from(first);
            let mut got = Vec::new();
            while let Some(frame) = take_frame(&mut bytes).unwrap() {
                got.push(frame);
            }
            bytes.extend_from_slice(rest);
            while let Some(frame) = take_frame(&mut bytes).unwrap() {
                got.push(frame);
            }
            let last = parts.len() - 1;
            let expected: Vec<Frame> = parts
                .iter()
                .enumerate()
                .map(|(i, p)| Frame::Part(Bytes::copy_from_slice(p), i < last))
                .collect();
            prop_assert_eq!(got, expected);
            prop_assert!(bytes.is_empty());
        }

        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(frames) = taken(&bytes) {
                for frame in frames {
                    if let Frame::Command(_, body) = frame {
                        let _ = socket_type(&body);
                        prop_assert!(pong(&body).len() <= body.len() + 14);
                    }
                }
            }
        }
    }
}
