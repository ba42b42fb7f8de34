//! The leading digits that routing decides by.

use std::{collections::BTreeSet, fmt, str::FromStr};

use rlibphonenumber::PHONE_NUMBER_UTIL;
use serde::{Deserialize, Serialize};

use super::{Country, VietnamOperator, vietnam};

/// Leading digits of international numbers: a country code (`49`), or in Vietnam the block of an operator (`8498`,
/// `84993`). A fact about a number that travels in clear.
///
/// It says no more than the country code, or which of some fifty blocks a Vietnamese number is in. The crowd that
/// shares it: in Vietnam the ten million numbers of a block such as `8498`, at the least the million of one such as
/// `84993`; elsewhere all numbers behind the country code, which for the smallest countries is some thousands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperatorRange {
    digits: [u8; Self::MAX_DIGITS],
    length: usize,
}

/// A text that is not an operator range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a range is 1 to {} digits, country code first, without +, such as 84 or 8498",
    OperatorRange::MAX_DIGITS
)]
pub struct InvalidOperatorRange;

impl OperatorRange {
    /// The most digits a range can have.
    pub const MAX_DIGITS: usize = 7;

    /// The digits.
    pub fn as_str(&self) -> &str {
        self.digits.get(..self.length).and_then(|digits| str::from_utf8(digits).ok()).unwrap_or_default()
    }

    /// Whether numbers of this range begin with the digits of `prefix`.
    pub fn starts_with(&self, prefix: &Self) -> bool {
        self.as_str().starts_with(prefix.as_str())
    }

    /// The Vietnamese operator the block was given to; the number itself may have been ported since.
    pub fn operator_hint(&self) -> Option<VietnamOperator> {
        vietnam::operator_of(self.as_str()).map(|(operator, _)| operator)
    }

    /// The countries of all numbers whose range begins with these digits; empty if no number has such a range.
    pub fn countries(&self) -> BTreeSet<Country> {
        let mut countries = BTreeSet::new();
        for code in PHONE_NUMBER_UTIL.get_supported_calling_codes() {
            if code.to_string().starts_with(self.as_str())
                && let Some(regions) = PHONE_NUMBER_UTIL.get_regions_for_country_calling_code(code)
            {
                countries.extend(regions.filter_map(Country::of_region));
            }
        }
        if vietnam::has_range_starting(self.as_str()) {
            countries.insert(Country::VIETNAM);
        }
        countries
    }

    /// The range of a number given its digits and the length of its country code.
    pub(super) fn of(calling_code: usize, digits: &str) -> Self {
        let length = vietnam::operator_of(digits).map_or(calling_code, |(_, length)| length);
        Self::cut(digits, length)
    }

    fn cut(digits: &str, length: usize) -> Self {
        let mut kept = [0; Self::MAX_DIGITS];
        let length = length.min(Self::MAX_DIGITS);
        for (place, digit) in kept.iter_mut().zip(digits.bytes().take(length)) {
            *place = digit;
        }
        Self { digits: kept, length }
    }
}

impl FromStr for OperatorRange {
    type Err = InvalidOperatorRange;
    fn from_str(digits: &str) -> Result<Self, InvalidOperatorRange> {
        let fits = (1..=Self::MAX_DIGITS).contains(&digits.len());
        if fits && digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0') {
            Ok(Self::cut(digits, digits.len()))
        } else {
            Err(InvalidOperatorRange)
        }
    }
}

impl TryFrom<String> for OperatorRange {
    type Error = InvalidOperatorRange;
    fn try_from(digits: String) -> Result<Self, InvalidOperatorRange> {
        digits.parse()
    }
}

impl From<OperatorRange> for String {
    fn from(range: OperatorRange) -> Self {
        range.as_str().to_owned()
    }
}

impl fmt::Display for OperatorRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for OperatorRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
