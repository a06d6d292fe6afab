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
    while let Ok(Some((field, value))) = fields.next_past_groups() {
        if let (TOKENIZED, Value::Range(range)) = (field, value) {
            n += ids_in(message, range);
        }
    }
    n
}

fn ids_in(message: &[u8], range: std::ops::Range<usize>) -> usize {
    let mut n = 0;
    let mut fields = Reader::new(message, range);
    while let Ok(Some((field, value))) = fields.next_past_groups() {
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
        fn any_bytes_have_no_fewer_ids_than_are_read(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                // Tags of groups, of ids and of lists of them, and small numbers: most of these are messages.
                prop::collection::vec(prop::sample::select(&[0x10u8, 0x12, 0x23, 0x24, 0x7b, 0x7c, 0, 1, 2, 4, 8][..]), 0..40),
            ],
        ) {
            let counted = ids(&bytes);
            if let Ok(request) = GenerateRequest::decode(bytes.as_slice())
                && let Some(Input::Tokenized(tokenized)) = request.input
            {
                prop_assert!(counted >= tokenized.input_ids.len());
            }
        }
    }

    #[test]
    fn ids_behind_a_group_count_too() {
        let behind: [&[u8]; 4] = [
            // Within the list of ids, before the list, a group in a group, and what a fuzzer found.
            &[0x12, 4, 0x23, 0x24, 0x10, 1],
            &[0x7b, 0x7c, 0x12, 2, 0x10, 1],
            &[0x7b, 0x6b, 0x10, 9, 0x6c, 0x7c, 0x12, 2, 0x10, 1],
            &[
                0x12, 0x00, 0x12, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x14, 0x23, 0x10, 0x10,
                0x10, 0x10, 0x24, 0x10, 0x10,
            ],
        ];
        for message in behind {
            let request = GenerateRequest::decode(message).unwrap();
            let Some(Input::Tokenized(tokenized)) = request.input else {
                panic!("{message:?} has no ids");
            };
            assert!(!tokenized.input_ids.is_empty());
            assert_eq!(ids(message), tokenized.input_ids.len(), "{message:?}");
        }
        // One that is not closed, or not opened, is no message.
        for message in [&[0x12, 3, 0x23, 0x10, 1][..], &[0x12, 3, 0x24, 0x10, 1]] {
            assert!(GenerateRequest::decode(message).is_err());
            assert_eq!(ids(message), 0);
        }
    }

    #[test]
    fn ids_that_are_not_packed_count_too() {
        assert_eq!(ids(&[0x12, 4, 0x10, 7, 0x10, 9]), 2);
        // Two prompts are joined when they are read.
        assert_eq!(ids(&[0x12, 2, 0x10, 7, 0x12, 4, 0x12, 2, 1, 1]), 3);
    }
}
