//! Comparison that takes the same time wherever the difference lies.

use subtle::ConstantTimeEq as _;

/// Tells whether two byte strings are equal; only their lengths may be learnt from the time it takes.
#[must_use]
pub fn equal(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}
