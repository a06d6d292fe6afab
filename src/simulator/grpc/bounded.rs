//! How many token ids a message brings, found out before it is read: an id takes a byte there and four in memory. Called
//! by [`super`] for large messages.

use crate::wire::protobuf::{Reader, Value};

/// Token ids of a prompt at most, as over HTTP.
pub const MAX_IDS: usize = 4 << 20;

/// Number of the field `tokenized` of a request, and of `input_ids` in it.
const TOKENIZED: u64 = 2;
const INPUT_IDS: u64 = 2;

/// Token ids in a `GenerateRequest`; those before the fault in a message that is none.
pub fn ids(message: &[u8]) -> usize {
    let mut n = 0;
    let mut fields = Reader::new(message, 0..message.len());
    while let Ok(Some((field, value))) = fields.next() {
        if let (TOKENIZED, Value::Range(range)) = (field, value) {
            n += ids_in(message, range);
        }
    }
    n
}

fn ids_in(message: &[u8], range: std::ops::Range<usize>) -> usize {
    let mut n = 0;
    let mut fields = Reader::new(message, range);
    while let Ok(Some((field, value))) = fields.next() {
        match (field, value) {
            // Each ends with a byte whose highest bit is 0.
            (INPUT_IDS, Value::Range(packed)) => n += message[packed].iter().filter(|b| **b < 0x80).count(),
            (INPUT_IDS, Value::Number(_)) => n += 1,
            _ => {}
        }
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::grpc::messages::generate_request::Input;
    use crate::simulator::grpc::messages::{GenerateRequest, TokenizedInput};
    use proptest::prelude::*;
    use prost::Message;

    proptest! {
        #[test]
        fn ids_are_counted_as_they_are_read(input_ids: Vec<u32>, original_text: String, request_id: String) {
            let n = input_ids.len();
            let input = Some(Input::Tokenized(TokenizedInput { original_text, input_ids }));
            let request = GenerateRequest { request_id, input, ..GenerateRequest::default() };
            prop_assert_eq!(ids(&request.encode_to_vec()), n);
        }

        #[test]
        fn any_bytes_have_no_fewer_ids_than_are_read(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let counted = ids(&bytes);
            if let Ok(request) = GenerateRequest::decode(bytes.as_slice())
                && let Some(Input::Tokenized(tokenized)) = request.input
            {
                prop_assert!(counted >= tokenized.input_ids.len());
            }
        }
    }

    #[test]
    fn ids_that_are_not_packed_count_too() {
        assert_eq!(ids(&[0x12, 4, 0x10, 7, 0x10, 9]), 2);
        // Two prompts are joined when they are read.
        assert_eq!(ids(&[0x12, 2, 0x10, 7, 0x12, 4, 0x12, 2, 1, 1]), 3);
    }
}
