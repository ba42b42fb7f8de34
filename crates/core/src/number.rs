//! Recipients' numbers: ITU-T E.164, checked once, never printed, and the facts that may be told about them.
//!
//! A number is personal. What leaves ingress in clear are two facts derived from it: its [`Country`] and its
//! [`OperatorRange`], whose documentation says how many numbers share them.

mod country;
mod masked;
mod range;
#[cfg(test)]
mod tests;
mod vietnam;

use std::fmt;

use rlibphonenumber::{
    PHONE_NUMBER_UTIL, ParseError, PhoneNumber, PhoneNumberType, get_national_significant_number_owned,
};
use zeroize::{Zeroize, Zeroizing};

pub use self::{
    country::{Country, InvalidCountry},
    masked::Masked,
    range::{InvalidOperatorRange, OperatorRange},
    vietnam::VietnamOperator,
};
use crate::{Classified, ErrorClass};

/// The most digits an international number has, country code included (ITU-T E.164 §6.2.1).
const MAX_DIGITS: usize = 15;
/// Fewer digits than any country's mobile numbers have, country code included.
const MIN_DIGITS: usize = 7;

/// Why a number was refused. Says what to mend, never the digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// There is no number.
    #[error("the number is empty: write it in E.164, + and the country code first, e.g. +84…")]
    Empty,
    /// The number does not start with `+`.
    #[error(
        "the number is not in international form: write it in E.164, + and the country code instead of a leading 0 or 00, e.g. +84…"
    )]
    NotInternational,
    /// Something other than digits follows the `+`.
    #[error(
        "the number has characters other than digits after the +: leave out spaces, dots, hyphens and brackets"
    )]
    NotDigits,
    /// Too few or too many digits for any number.
    #[error("the number must have {MIN_DIGITS} to {MAX_DIGITS} digits after the +")]
    Length,
    /// No country has this country code.
    #[error(
        "the digits after the + start with no country's code: check the country code, e.g. +84 for Vietnam"
    )]
    UnknownCountryCode,
    /// The national prefix was left between country code and number.
    #[error(
        "a national prefix follows the country code: leave it out, e.g. +84 and then the number without its leading 0"
    )]
    NationalPrefix,
    /// A Vietnamese mobile number from before the renumbering of 2018.
    #[error(
        "this 11-digit Vietnamese mobile number was renumbered in 2018: its block is now {new_prefix}, write {new_prefix} and the last seven digits"
    )]
    OldVietnamese {
        /// Today's start of the number's block, e.g. `+8470`.
        new_prefix: &'static str,
    },
    /// The country's numbering plan has no such number.
    #[error("the country has no such number: check that all digits are there")]
    NotInPlan,
    /// A number that receives no short messages: fixed line, toll-free, premium rate and the like.
    #[error("this is not a mobile number: short messages are sent to mobile numbers only")]
    NotMobile,
    /// A satellite or other global number, for which no country's rules hold.
    #[error(
        "the number belongs to a global network, not to a country: short messages to it are not supported"
    )]
    NoCountry,
}

impl Classified for NumberError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

/// A mobile number in E.164. Printing it shows `[NUMBER]`; its digits are wiped when it is dropped.
///
/// The library that checks the number keeps short-lived copies of its own, which are freed without being wiped.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct E164 {
    digits: [u8; MAX_DIGITS],
    length: usize,
    /// Digits of the country code, the first ones.
    calling_code: usize,
    country: Country,
    range: OperatorRange,
}

impl E164 {
    /// Reads `+`, country code and number, digits only. The number must be one that can be mobile in its country's
    /// numbering plan. Nothing is corrected on the way: one number has one spelling.
    pub fn parse(input: &str) -> Result<Self, NumberError> {
        if input.is_empty() {
            return Err(NumberError::Empty);
        }
        let digits = input.strip_prefix('+').ok_or(NumberError::NotInternational)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NumberError::NotDigits);
        }
        if !(MIN_DIGITS..=MAX_DIGITS).contains(&digits.len()) {
            return Err(NumberError::Length);
        }
        if let Some(new_prefix) = vietnam::renumbered(digits) {
            return Err(NumberError::OldVietnamese { new_prefix });
        }
        let parsed = PHONE_NUMBER_UTIL.parse(input, None).map_err(|error| match error {
            ParseError::InvalidCountryCode => NumberError::UnknownCountryCode,
            ParseError::NotANumber(_)
            | ParseError::TooShortAfterIdd
            | ParseError::TooShortNsn
            | ParseError::TooLongNsn => NumberError::NotInPlan,
        })?;
        let calling_code = unchanged(&parsed, digits)?;
        let country = country_of_mobile(&parsed)?;
        let mut kept = [0; MAX_DIGITS];
        for (place, digit) in kept.iter_mut().zip(digits.bytes()) {
            *place = digit;
        }
        let range = OperatorRange::of(calling_code, digits);
        Ok(Self { digits: kept, length: digits.len(), calling_code, country, range })
    }

    /// The number's digits in clear, country code first, without `+`: for sealing, for pseudonyms and for the carrier.
    pub fn digits(&self) -> &str {
        self.digits.get(..self.length).and_then(|digits| str::from_utf8(digits).ok()).unwrap_or_default()
    }

    /// The number as people are shown it who may know which one is meant: `+84 9•• ••• •12`.
    pub fn masked(&self) -> Masked {
        Masked::new(self, self.digits().get(..self.calling_code).unwrap_or_default())
    }

    /// The country whose numbering plan has the number. Not personal.
    pub const fn country(&self) -> Country {
        self.country
    }

    /// The block of numbers that routing decides by. Not personal: see [`OperatorRange`].
    pub const fn operator_range(&self) -> OperatorRange {
        self.range
    }

    /// The Vietnamese operator that the number's block was given to. A hint: the number may have been ported.
    pub fn operator_hint(&self) -> Option<VietnamOperator> {
        self.range.operator_hint()
    }
}

impl Drop for E164 {
    fn drop(&mut self) {
        self.digits.zeroize();
    }
}

impl fmt::Debug for E164 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[NUMBER]")
    }
}

impl fmt::Display for E164 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[NUMBER]")
    }
}

/// The length of the country code, if the parsed number is just the digits given. The parser drops national
/// prefixes by itself; the carrier would then get another number than the client wrote.
fn unchanged(parsed: &PhoneNumber, digits: &str) -> Result<usize, NumberError> {
    let calling_code = parsed.country_code.to_string();
    let national = Zeroizing::new(get_national_significant_number_owned(parsed));
    if digits.strip_prefix(&calling_code) == Some(national.as_str()) {
        Ok(calling_code.len())
    } else {
        Err(NumberError::NationalPrefix)
    }
}

/// The country of a number that its numbering plan has and that can be mobile.
fn country_of_mobile(parsed: &PhoneNumber) -> Result<Country, NumberError> {
    let region = parsed.get_region_code().filter(|_| parsed.is_valid()).ok_or(NumberError::NotInPlan)?;
    let kind = parsed.get_type();
    if kind != PhoneNumberType::Mobile && kind != PhoneNumberType::FixedLineOrMobile {
        return Err(NumberError::NotMobile);
    }
    Country::of_region(region).ok_or(NumberError::NoCountry)
}
