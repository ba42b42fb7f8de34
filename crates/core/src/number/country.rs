//! Countries by their ISO 3166-1 alpha-2 codes.

use std::{fmt, str::FromStr};

use rlibphonenumber::{PHONE_NUMBER_UTIL, Region};
use serde::{Deserialize, Serialize};

/// A country that has phone numbers, by its ISO 3166-1 alpha-2 code in capitals: `VN`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Country([u8; 2]);

/// A text that is no country's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a country is two capital letters of ISO 3166-1, such as VN or GB, and has phone numbers")]
pub struct InvalidCountry;

impl Country {
    /// Vietnam.
    pub const VIETNAM: Self = Self(*b"VN");

    /// The two capital letters.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    pub(super) fn of_region(region: Region) -> Option<Self> {
        region.as_region_str().parse().ok()
    }
}

impl FromStr for Country {
    type Err = InvalidCountry;
    fn from_str(code: &str) -> Result<Self, InvalidCountry> {
        let letters: [u8; 2] = code.as_bytes().try_into().map_err(|_| InvalidCountry)?;
        let region = Region::from_code(code).map_err(|_| InvalidCountry)?;
        let known = PHONE_NUMBER_UTIL.get_country_code_for_region(region).is_some();
        if known && letters.iter().all(u8::is_ascii_uppercase) {
            Ok(Self(letters))
        } else {
            Err(InvalidCountry)
        }
    }
}

impl TryFrom<String> for Country {
    type Error = InvalidCountry;
    fn try_from(code: String) -> Result<Self, InvalidCountry> {
        code.parse()
    }
}

impl From<Country> for String {
    fn from(country: Country) -> Self {
        country.as_str().to_owned()
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
