//! What stands for a number.

use sotto_core::{
    index::{PSEUDONYM_LABEL, Pseudonym},
    number::E164,
};
use sotto_crypto::MacKey;

/// The pseudonym of a number under the key of a tenant, a purpose and a bucket.
pub fn pseudonym(key: &MacKey, number: &E164) -> Pseudonym {
    Pseudonym(key.keyed_id(PSEUDONYM_LABEL, &[number.digits().as_bytes()]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(of: u32) -> E164 {
        E164::parse(&format!("+8498{of:07}")).unwrap()
    }

    proptest! {
        #[test]
        fn one_number_has_one_pseudonym_under_a_key_and_others_have_others(
            a in 0_u32..10_000_000,
            b in 0_u32..10_000_000,
            key in any::<[u8; 32]>(),
            other in any::<[u8; 32]>(),
        ) {
            let of = |key: [u8; 32], of| pseudonym(&MacKey::from_bytes(key), &number(of));
            prop_assert_eq!(of(key, a), of(key, a));
            prop_assert_eq!(of(key, a) == of(key, b), a == b);
            prop_assert_eq!(of(key, a) == of(other, a), key == other);
        }
    }
}
