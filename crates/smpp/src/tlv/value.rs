//! Optional parameters as values: what the specification's form gives, or the octets as they came.

use super::{
    Tlv,
    tag::{self, Format},
};
use crate::octets::COctets;
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;

/// `network_error_code` (SMPP 3.4 §5.3.2.31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkErrorCode {
    /// Kind of network: 1 ANSI-136, 2 IS-95, 3 GSM.
    pub network: u8,
    /// The network's own code.
    pub code: u16,
}

/// The value of an optional parameter. Printing it shows its kind: it may be text, an id or an address.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// No octets, where that says something.
    Empty,
    /// One octet.
    U8(u8),
    /// Two octets.
    U16(u16),
    /// Four octets.
    U32(u32),
    /// A C-octet string, without its NUL.
    Text(COctets),
    /// Octets of any meaning.
    Octets(Bytes),
    /// `network_error_code`
    NetworkErrorCode(NetworkErrorCode),
    /// `ms_validity`
    MsValidity {
        /// What the handset is to do.
        behaviour: u8,
        /// Unit and number, for a relative period.
        period: Option<(u8, u16)>,
    },
    /// `source_subaddress`, `dest_subaddress`
    Subaddress {
        /// Kind.
        kind: u8,
        /// The subaddress.
        octets: Bytes,
    },
    /// `broadcast_area_identifier`
    BroadcastArea {
        /// 0 alias, 1 ellipsoid arc, 2 polygon.
        format: u8,
        /// The area.
        octets: Bytes,
    },
    /// `broadcast_content_type`
    BroadcastContentType {
        /// 0 generic, 1 GSM, 2 TDMA, 3 CDMA.
        network: u8,
        /// The content.
        content: u16,
    },
    /// `broadcast_frequency_interval`
    BroadcastFrequency {
        /// Unit of time.
        unit: u8,
        /// How many of them.
        number: u16,
    },
    /// `its_session_info`
    ItsSession {
        /// Which session.
        session: u8,
        /// Step and end flag.
        sequence: u8,
    },
    /// A tag of the carrier's own, or a value whose length its tag does not have.
    Raw(Bytes),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::U8(_) => "U8",
            Self::U16(_) => "U16",
            Self::U32(_) => "U32",
            Self::Text(_) => "Text",
            Self::Octets(_) => "Octets",
            Self::NetworkErrorCode(_) => "NetworkErrorCode",
            Self::MsValidity { .. } => "MsValidity",
            Self::Subaddress { .. } => "Subaddress",
            Self::BroadcastArea { .. } => "BroadcastArea",
            Self::BroadcastContentType { .. } => "BroadcastContentType",
            Self::BroadcastFrequency { .. } => "BroadcastFrequency",
            Self::ItsSession { .. } => "ItsSession",
            Self::Raw(_) => "Raw",
        })
    }
}

impl Tlv {
    /// The value in the form of its tag; [`Value::Raw`] where it has none or another length.
    pub fn read(&self) -> Value {
        tag::format(self.tag)
            .and_then(|format| typed(format, &self.value))
            .unwrap_or_else(|| Value::Raw(self.value.clone()))
    }

    /// A parameter of a value.
    pub fn new(tag: u16, value: &Value) -> Self {
        let mut out = BytesMut::new();
        match value {
            Value::Empty => {}
            Value::U8(number) => out.put_u8(*number),
            Value::U16(number) => out.put_u16(*number),
            Value::U32(number) => out.put_u32(*number),
            Value::Text(text) => {
                out.put_slice(text.as_bytes());
                out.put_u8(0);
            }
            Value::Octets(octets) | Value::Raw(octets) => return Self { tag, value: octets.clone() },
            Value::NetworkErrorCode(NetworkErrorCode { network: octet, code: number })
            | Value::BroadcastContentType { network: octet, content: number }
            | Value::BroadcastFrequency { unit: octet, number } => {
                out.put_u8(*octet);
                out.put_u16(*number);
            }
            Value::MsValidity { behaviour, period } => {
                out.put_u8(*behaviour);
                if let Some((unit, number)) = period {
                    out.put_u8(*unit);
                    out.put_u16(*number);
                }
            }
            Value::Subaddress { kind, octets } | Value::BroadcastArea { format: kind, octets } => {
                out.put_u8(*kind);
                out.put_slice(octets);
            }
            Value::ItsSession { session, sequence } => out.put_slice(&[*session, *sequence]),
        }
        Self { tag, value: out.freeze() }
    }
}

/// The value in a form, unless its length is not one of that form.
fn typed(format: Format, octets: &Bytes) -> Option<Value> {
    Some(match (format, octets.as_ref()) {
        (Format::U8 | Format::OptionalU8, [number]) => Value::U8(*number),
        (Format::OptionalU8, []) => Value::Empty,
        (Format::U16, [high, low]) => Value::U16(u16::from_be_bytes([*high, *low])),
        (Format::U32, [a, b, c, d]) => Value::U32(u32::from_be_bytes([*a, *b, *c, *d])),
        (Format::Text { least, most }, all) => {
            // Carriers leave the NUL out; what follows one is padding.
            let end = all.iter().position(|octet| *octet == 0).unwrap_or(all.len());
            if all.is_empty() || !(least..=most).contains(&end.saturating_add(1)) {
                return None;
            }
            Value::Text(COctets::new(octets.slice(..end)))
        }
        (Format::Octets { least, most }, all) if (least..=most).contains(&all.len()) => {
            Value::Octets(octets.clone())
        }
        (Format::NetworkErrorCode, [network, high, low]) => Value::NetworkErrorCode(NetworkErrorCode {
            network: *network,
            code: u16::from_be_bytes([*high, *low]),
        }),
        (Format::BroadcastContentType, [network, high, low]) => {
            Value::BroadcastContentType { network: *network, content: u16::from_be_bytes([*high, *low]) }
        }
        (Format::BroadcastFrequency, [unit, high, low]) => {
            Value::BroadcastFrequency { unit: *unit, number: u16::from_be_bytes([*high, *low]) }
        }
        (Format::MsValidity, [behaviour]) => Value::MsValidity { behaviour: *behaviour, period: None },
        (Format::MsValidity, [behaviour, unit, high, low]) => Value::MsValidity {
            behaviour: *behaviour,
            period: Some((*unit, u16::from_be_bytes([*high, *low]))),
        },
        (Format::Subaddress, [kind, rest @ ..]) if (1..=22).contains(&rest.len()) => {
            Value::Subaddress { kind: *kind, octets: octets.slice(1..) }
        }
        (Format::BroadcastArea, [format, ..]) => {
            Value::BroadcastArea { format: *format, octets: octets.slice(1..) }
        }
        (Format::ItsSession, [session, sequence]) => {
            Value::ItsSession { session: *session, sequence: *sequence }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_has_a_name_and_a_form() {
        assert_eq!(tag::ALL.len(), 64);
        for tag in tag::ALL {
            assert!(tag::name(*tag).is_some() && tag::format(*tag).is_some());
        }
        assert_eq!(tag::format(0x1400), None);
    }

    #[test]
    fn a_string_without_its_nul_or_with_padding_is_read() {
        let read = |octets: &'static [u8]| {
            Tlv { tag: tag::RECEIPTED_MESSAGE_ID, value: Bytes::from_static(octets) }.read()
        };
        let id = Value::Text(COctets::from_static("a1"));
        assert_eq!((read(b"a1\0"), read(b"a1"), read(b"a1\0\0\0")), (id.clone(), id.clone(), id));
        assert_eq!(read(b""), Value::Raw(Bytes::new()));
    }

    #[test]
    fn an_odd_length_or_an_unknown_tag_stays_raw() {
        let tlv = Tlv { tag: tag::MESSAGE_STATE, value: Bytes::from_static(&[0, 2]) };
        assert_eq!(tlv.read(), Value::Raw(tlv.value.clone()));
        let tlv = Tlv { tag: 0x1400, value: Bytes::from_static(b"2") };
        assert_eq!(tlv.read(), Value::Raw(tlv.value.clone()));
        assert_eq!(Tlv::new(tlv.tag, &tlv.read()), tlv);
    }

    #[test]
    fn prints_no_content() {
        assert_eq!(format!("{:?}", Value::Text(COctets::from_static("84901234567"))), "Text");
    }
}
