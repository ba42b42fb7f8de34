//! Messages from handsets, on command.

use bytes::Bytes;
use serde::Deserialize;
use sotto_core::{
    Classified, ErrorClass,
    text::{self, Encoding, TextError},
};
use sotto_smpp::{Address, COctets, Sm, pdu::esm_class};

/// What somebody writes to a partner's number. `Debug` shows nothing of it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// The partner: its system id.
    pub partner: String,
    /// The handset's number.
    pub from: String,
    /// The partner's number.
    pub to: String,
    /// The text, 1 character to 10 parts.
    pub text: String,
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Written").field("partner", &self.partner).finish_non_exhaustive()
    }
}

/// Why it is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrittenError {
    /// No partner has this system id.
    #[error("partner: no partner has this system id")]
    Partner,
    /// The text cannot be written.
    #[error("text: {0}")]
    Text(TextError),
}

impl Classified for WrittenError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

impl Written {
    /// Its parts as they go to the partner.
    pub(crate) fn parts(&self, reference: u8) -> Result<Vec<Sm>, WrittenError> {
        let segmented = text::segment(&self.text).map_err(WrittenError::Text)?;
        let total = u8::try_from(segmented.parts.len()).unwrap_or(u8::MAX);
        let address = |value: &str| Address { ton: 1, npi: 1, value: COctets::from(value.to_owned()) };
        let part = |(number, part): (u8, &text::Part)| {
            let mut octets = Vec::new();
            if total > 1 {
                octets.extend_from_slice(&text::concatenation_udh(reference, total, number));
            }
            octets.extend_from_slice(part.payload());
            Sm {
                source: address(&self.from),
                destination: address(&self.to),
                esm_class: if total > 1 { esm_class::UDHI } else { 0 },
                data_coding: match segmented.encoding {
                    Encoding::Gsm7 => 0,
                    Encoding::Ucs2 => 8,
                },
                short_message: Bytes::from(octets),
                ..Sm::default()
            }
        };
        Ok((1..).zip(&segmented.parts).map(part).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_handsets_write() {
        let written = |text: &str| Written {
            partner: "sotto".to_owned(),
            from: "84912345678".to_owned(),
            to: "9029".to_owned(),
            text: text.to_owned(),
        };
        let one = written("Từ chối").parts(7).unwrap();
        assert_eq!((one.len(), one[0].data_coding, one[0].short_message.len()), (1, 8, 14));
        let two = written(&"x".repeat(161)).parts(7).unwrap();
        assert_eq!(
            (two.len(), two[1].data_coding, &two[1].short_message[..6]),
            (2, 0, &[5, 0, 3, 7, 2, 2][..])
        );
        assert_eq!(written("").parts(7), Err(WrittenError::Text(TextError::Empty)));
        assert!(!format!("{:?}", written("hello")).contains("hello"));
    }
}
