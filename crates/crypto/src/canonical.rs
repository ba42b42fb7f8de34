//! One unambiguous encoding of a list of fields: each field is its length as eight big-endian bytes, then itself.
//!
//! Two different lists never encode to the same bytes, so neither `("ab", "c")` and `("a", "bc")` nor lists of
//! different lengths can stand for one another in a tag.

/// Hands the encoding of `fields` to `sink`, piece by piece.
pub(crate) fn each<'a>(fields: impl IntoIterator<Item = &'a [u8]>, mut sink: impl FnMut(&[u8])) {
    for field in fields {
        sink(&(field.len() as u64).to_be_bytes());
        sink(field);
    }
}

/// Returns the encoding of `fields`.
pub(crate) fn encode(fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(fields.iter().map(|field| 8 + field.len()).sum());
    each(fields.iter().copied(), |piece| out.extend_from_slice(piece));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn different_lists_encode_differently(
            left in prop::collection::vec(prop::collection::vec(0_u8..3, 0..4), 0..4),
            right in prop::collection::vec(prop::collection::vec(0_u8..3, 0..4), 0..4),
        ) {
            let encoded = |list: &[Vec<u8>]| encode(&list.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!(left == right, encoded(&left) == encoded(&right));
        }
    }

    #[test]
    fn a_field_is_its_length_and_itself() {
        assert_eq!(encode(&[b"ab", b""]), b"\0\0\0\0\0\0\0\x02ab\0\0\0\0\0\0\0\0");
    }
}
