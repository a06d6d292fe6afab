//! The protobuf wire format, as much as ext_proc needs: a field reader over borrowed bytes and a writer that
//! nests messages. Used by [`super::ext_proc`]; the simulator looks into large messages with the reader.

/// The bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf message")]
pub struct Malformed;

/// One field's value. Length-delimited fields are given as a range of the reader's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Wire types 0, 1 and 5.
    Number(u64),
    /// Wire type 2.
    Range(std::ops::Range<usize>),
}

/// Reads fields of the message that lies at `start..end` of `buf`.
pub struct Reader<'a> {
    buf: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    /// A reader over `range` of `buf`.
    pub fn new(buf: &'a [u8], range: std::ops::Range<usize>) -> Self {
        let end = range.end.min(buf.len());
        Reader {
            buf,
            at: range.start.min(end),
            end,
        }
    }

    /// The next field, or `None` at the end. Groups (obsolete) are refused.
    #[inline]
    pub fn next(&mut self) -> Result<Option<(u64, Value)>, Malformed> {
        if self.at >= self.end {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Number(u64::from_le_bytes(self.fixed::<8>()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                let start = self.at;
                if len > self.end - start {
                    return Err(Malformed);
                }
                self.at = start + len;
                Value::Range(start..self.at)
            }
            5 => Value::Number(u64::from(u32::from_le_bytes(self.fixed::<4>()?))),
            _ => return Err(Malformed),
        };
        Ok(Some((tag >> 3, value)))
    }

    /// The next field, or `None` at the end. Groups (obsolete) are passed over with all that is in them, as a decoder
    /// passes over a field it does not know.
    pub fn next_past_groups(&mut self) -> Result<Option<(u64, Value)>, Malformed> {
        let mut depth = 0usize;
        while self.at < self.end {
            let start = self.at;
            match self.varint()? & 7 {
                3 => depth += 1,
                4 => depth = depth.checked_sub(1).ok_or(Malformed)?,
                _ => {
                    self.at = start;
                    let field = self.next()?;
                    if depth == 0 {
                        return Ok(field);
                    }
                }
            }
        }
        if depth == 0 { Ok(None) } else { Err(Malformed) }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.at >= self.end {
                return Err(Malformed);
            }
            let byte = self.buf[self.at];
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self
            .buf
            .get(self.at..self.end)
            .and_then(|b| b.first_chunk::<N>())
            .ok_or(Malformed)?;
        self.at += N;
        Ok(*bytes)
    }
}

/// Bytes a varint takes.
pub const fn varint_len(value: usize) -> usize {
    let bits = usize::BITS as usize - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends a varint.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length-delimited field; `field` is below 16.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a varint field; `field` is below 16.
#[inline]
pub fn put_number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    put_varint(out, value);
}

/// Appends a nested message written by `inner`, then puts its length in front. For the small messages here,
/// moving the bytes once is cheaper than measuring them first.
#[inline]
pub fn put_message(out: &mut Vec<u8>, field: u8, inner: impl FnOnce(&mut Vec<u8>)) {
    out.push(field << 3 | 2);
    let start = out.len();
    out.push(0);
    inner(out);
    let len = out.len() - start - 1;
    let extra = varint_len(len) - 1;
    if extra > 0 {
        out.resize(out.len() + extra, 0);
        out.copy_within(start + 1..start + 1 + len, start + 1 + extra);
    }
    let mut rest = len;
    for slot in &mut out[start..start + extra] {
        *slot = (rest as u8 & 0x7f) | 0x80;
        rest >>= 7;
    }
    out[start + extra] = rest as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_lengths_of_every_width_read_back() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 2_097_152] {
            let mut out = Vec::new();
            put_message(&mut out, 3, |o| put_bytes(o, 1, &vec![7; len]));
            let mut outer = Reader::new(&out, 0..out.len());
            let Ok(Some((3, Value::Range(r)))) = outer.next() else {
                panic!("field 3 at {len}")
            };
            let mut inner = Reader::new(&out, r);
            let Ok(Some((1, Value::Range(r)))) = inner.next() else {
                panic!("field 1 at {len}")
            };
            assert_eq!(r.len(), len);
            assert_eq!(outer.next(), Ok(None));
        }
    }

    #[test]
    fn truncated_and_overlong_input_is_refused() {
        for bytes in [&[0x0a, 5, 1][..], &[0x80; 11], &[0x09, 1], &[0x0b]] {
            assert_eq!(
                Reader::new(bytes, 0..bytes.len()).next(),
                Err(Malformed),
                "{bytes:?}"
            );
        }
    }
}
