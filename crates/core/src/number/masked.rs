//! A number as it is shown to people who may know which one is meant, and no more.

use std::fmt;

use super::E164;

/// What stands for a hidden digit.
const HIDDEN: char = '•';

/// Last digits that are shown.
const LAST: usize = 2;

/// With fewer digits after the country code none of the first ones is shown.
const LONG_ENOUGH: usize = 8;

/// A number of which the country code, the first digit after it and the last two are shown: `+84 9•• ••• •12`. Of a number with
/// fewer than eight digits after its country code the first one is hidden too. It holds no other digit.
#[derive(Clone, PartialEq, Eq)]
pub struct Masked(String);

impl Masked {
    pub(super) fn new(number: &E164, calling_code: &str) -> Self {
        let national = number.digits().strip_prefix(calling_code).unwrap_or_default();
        let length = national.len();
        let first = usize::from(length >= LONG_ENOUGH);
        let mut shown = format!("+{calling_code}");
        for (at, digit) in national.chars().enumerate() {
            // Groups of three, without one digit alone at the end.
            if at % 3 == 0 && at + 1 < length {
                shown.push(' ');
            }
            let is_shown = at < first || at + LAST >= length;
            shown.push(if is_shown { digit } else { HIDDEN });
        }
        Self(shown)
    }
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
