//! Delivery receipts: by optional parameters, by the text form of SMPP 3.4 Appendix B, or by both.
//!
//! The free text of a receipt repeats the start of the message. It is never kept: parsing stops in front of it.

use crate::pdu::{Sm, esm_class};
use std::fmt;

/// State of a message (SMPP 3.4 §5.2.28).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageState {
    /// On its way.
    Enroute,
    /// At the handset.
    Delivered,
    /// Its validity ended first.
    Expired,
    /// Deleted at the carrier.
    Deleted,
    /// Cannot be delivered.
    Undeliverable,
    /// Taken over by hand (customer service).
    Accepted,
    /// The carrier does not know, or says something that is not in the specification.
    Unknown,
    /// Refused by the carrier after it was taken.
    Rejected,
}

impl MessageState {
    /// From `message_state`.
    pub const fn from_octet(octet: u8) -> Self {
        match octet {
            1 => Self::Enroute,
            2 => Self::Delivered,
            3 => Self::Expired,
            4 => Self::Deleted,
            5 => Self::Undeliverable,
            6 => Self::Accepted,
            8 => Self::Rejected,
            _ => Self::Unknown,
        }
    }

    /// To `message_state`.
    pub const fn octet(self) -> u8 {
        match self {
            Self::Enroute => 1,
            Self::Delivered => 2,
            Self::Expired => 3,
            Self::Deleted => 4,
            Self::Undeliverable => 5,
            Self::Accepted => 6,
            Self::Unknown => 7,
            Self::Rejected => 8,
        }
    }

    /// From the word after `stat:`, in any case; carriers shorten or complete the seven-letter words.
    pub fn from_word(word: &str) -> Self {
        const WORDS: [(&str, MessageState); 7] = [
            ("ENROUTE", MessageState::Enroute),
            ("DELIVRD", MessageState::Delivered),
            ("EXPIRED", MessageState::Expired),
            ("DELETED", MessageState::Deleted),
            ("UNDELIV", MessageState::Undeliverable),
            ("ACCEPTD", MessageState::Accepted),
            ("REJECTD", MessageState::Rejected),
        ];
        const WHOLE: [(&str, MessageState); 6] = [
            ("DELIVERED", MessageState::Delivered),
            ("ACCEPTED", MessageState::Accepted),
            ("REJECTED", MessageState::Rejected),
            ("UNDELIVERABLE", MessageState::Undeliverable),
            ("UNDELIVERED", MessageState::Undeliverable),
            ("FAILED", MessageState::Undeliverable),
        ];
        let found = WORDS.iter().chain(&WHOLE).find(|(name, _)| name.eq_ignore_ascii_case(word));
        found.map_or(Self::Unknown, |(_, state)| *state)
    }

    /// The word of Appendix B.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Enroute => "ENROUTE",
            Self::Delivered => "DELIVRD",
            Self::Expired => "EXPIRED",
            Self::Deleted => "DELETED",
            Self::Undeliverable => "UNDELIV",
            Self::Accepted => "ACCEPTD",
            Self::Unknown => "UNKNOWN",
            Self::Rejected => "REJECTD",
        }
    }
}

/// A time on the carrier's own clock, whose zone only the carrier's contract tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarrierTime {
    /// Four digits.
    pub year: u16,
    /// From 1.
    pub month: u8,
    /// From 1.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59; zero when not told.
    pub second: u8,
}

impl CarrierTime {
    /// From `YYMMDDhhmm`, `YYMMDDhhmmss` or either with four digits of year.
    fn parse(text: &str) -> Option<Self> {
        let four = matches!(text.len(), 14)
            || (text.len() == 12 && text.starts_with("20") && {
                // `20MMDDhhmmss` of the year 2020 reads as `YYYYMMDDhhmm` too; a month above 12 decides.
                text.get(2..4).and_then(|month| month.parse::<u8>().ok()).is_some_and(|month| month > 12)
            });
        if !text.bytes().all(|octet| octet.is_ascii_digit()) || !matches!(text.len(), 10 | 12 | 14) {
            return None;
        }
        let (year, rest) = text.split_at_checked(if four { 4 } else { 2 })?;
        let year: u16 = year.parse().ok()?;
        let two = |at: usize| rest.get(at..at.saturating_add(2)).and_then(|digits| digits.parse::<u8>().ok());
        let time = Self {
            year: if four { year } else { year.saturating_add(2000) },
            month: two(0)?,
            day: two(2)?,
            hour: two(4)?,
            minute: two(6)?,
            second: two(8).unwrap_or(0),
        };
        let real = (1..=12).contains(&time.month)
            && (1..=31).contains(&time.day)
            && time.hour < 24
            && time.minute < 60
            && time.second < 61;
        real.then_some(time)
    }
}

/// What a receipt says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The carrier's message id as it wrote it (normalised by the caller, per carrier).
    pub id: String,
    /// What became of the message.
    pub state: MessageState,
    /// Whether it is only an intermediate notification.
    pub intermediate: bool,
    /// The carrier's or network's error code: at most 5 letters and digits.
    pub error: Option<String>,
    /// When, on the carrier's clock.
    pub done_at: Option<CarrierTime>,
}

/// Why a `deliver_sm` gives no receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// It is an ordinary message.
    #[error("not a receipt")]
    NotAReceipt,
    /// It is a receipt that names no message.
    #[error("receipt without a message id")]
    NoId,
    /// It is a receipt that tells no state.
    #[error("receipt without a state")]
    NoState,
}

impl Receipt {
    /// Reads a receipt. Optional parameters go before text. What is not marked as a receipt, by `esm_class` or by
    /// `receipted_message_id`, is none, whatever its text: anyone's handset can send such a text.
    pub fn parse(sm: &Sm) -> Result<Self, ReceiptError> {
        Self::parse_as(sm, false)
    }

    /// The same for a carrier that marks nothing: a text whose first field is `id` and that has a `stat` is a receipt too.
    pub fn parse_unmarked(sm: &Sm) -> Result<Self, ReceiptError> {
        Self::parse_as(sm, true)
    }

    fn parse_as(sm: &Sm, by_text: bool) -> Result<Self, ReceiptError> {
        let kind = sm.esm_class & esm_class::TYPE_MASK;
        let intermediate = kind == esm_class::INTERMEDIATE;
        let marked = intermediate || kind == esm_class::RECEIPT;
        let tlv_id = sm.tlvs.receipted_message_id();
        if !marked && tlv_id.is_none() && !by_text {
            return Err(ReceiptError::NotAReceipt);
        }
        let (_, mut octets) = sm.split_header();
        if sm.data_coding == UCS2 {
            // The fields are ASCII in any alphabet: the octet below each zero.
            octets = octets
                .as_chunks::<2>()
                .0
                .iter()
                .map(|[high, low]| if *high == 0 { *low } else { 0xFF })
                .collect();
        }
        let text = Text::read(&octets);
        if !marked && tlv_id.is_none() && !(text.begins && text.id.is_some() && text.stat.is_some()) {
            return Err(ReceiptError::NotAReceipt);
        }
        let tlv_id = tlv_id.as_ref().and_then(|id| id.as_str()).and_then(clean_id);
        let tlv_state = sm.tlvs.message_state().map(MessageState::from_octet);
        let network = sm.tlvs.network_error_code().map(|error| error.code.to_string());
        Ok(Self {
            id: tlv_id.or_else(|| text.id.and_then(clean_id)).ok_or(ReceiptError::NoId)?,
            state: tlv_state
                .or_else(|| text.stat.map(MessageState::from_word))
                .ok_or(ReceiptError::NoState)?,
            intermediate,
            error: text.err.and_then(clean_code).or(network),
            done_at: text.done.and_then(CarrierTime::parse),
        })
    }
}

fn clean_id(id: &str) -> Option<String> {
    let fits = (1..=64).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_graphic());
    fits.then(|| id.to_owned())
}

fn clean_code(code: &str) -> Option<String> {
    // Carriers' codes have three (Appendix B) to five characters (`network_error_code`); a longer word may be text.
    let fits = (1..=5).contains(&code.len()) && code.bytes().all(|octet| octet.is_ascii_alphanumeric());
    fits.then(|| code.to_owned())
}

/// `data_coding` of UCS2 (SMPP 3.4 §5.2.19).
const UCS2: u8 = 0x08;

/// The fields of the text form that matter, as slices of it.
#[derive(Default)]
struct Text<'a> {
    /// Whether `id` is the first word.
    begins: bool,
    id: Option<&'a str>,
    stat: Option<&'a str>,
    err: Option<&'a str>,
    done: Option<&'a str>,
}

/// The names of Appendix B. `text` is last in every receipt: what follows it is the message.
const NAMES: [&str; 8] = ["id", "sub", "dlvrd", "submit date", "done date", "stat", "err", "text"];

impl<'a> Text<'a> {
    fn read(octets: &'a [u8]) -> Self {
        // The fields are ASCII; the free text may be anything, so only the readable start counts.
        let mut rest = octets.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let mut fields = Self {
            begins: name_at(rest.trim_start()).is_some_and(|(name, _)| name == "id"),
            ..Self::default()
        };
        loop {
            rest = rest.trim_start_matches([' ', '\t', '\r', '\n', ',', ';', '\0']);
            let Some((name, value)) = name_at(rest) else {
                // A word that is no field: a carrier's own addition.
                match rest.find([' ', '\t', '\r', '\n', ',', ';']) {
                    Some(end) => rest = rest.get(end..).unwrap_or(""),
                    None => return fields,
                }
                continue;
            };
            if name == "text" {
                return fields;
            }
            let value = value.trim_start_matches(' ');
            // An empty value is followed by the next name.
            let end = if name_at(value).is_some() {
                0
            } else {
                value.find([' ', '\t', '\r', '\n', ',', ';', '\0']).unwrap_or(value.len())
            };
            let (value, after) = value.split_at_checked(end).unwrap_or((value, ""));
            rest = after;
            let field = match name {
                "id" => &mut fields.id,
                "stat" => &mut fields.stat,
                "err" => &mut fields.err,
                "done date" => &mut fields.done,
                _ => continue,
            };
            if !value.is_empty() {
                // The first one stands.
                field.get_or_insert(value);
            }
        }
    }
}

/// The field name at the start of the text, and what follows its colon.
fn name_at(text: &str) -> Option<(&'static str, &str)> {
    NAMES.iter().find_map(|name| {
        let (start, rest) = text.split_at_checked(name.len())?;
        let rest = rest.trim_start_matches(' ').strip_prefix(':')?;
        start.eq_ignore_ascii_case(name).then_some((*name, rest))
    })
}

/// Writes the text form of Appendix B, without free text: for carriers that we play ourselves.
#[derive(Clone, Copy, Debug)]
pub struct TextForm<'a> {
    /// The carrier's message id.
    pub id: &'a str,
    /// The word after `stat:`.
    pub stat: &'a str,
    /// `YYMMDDhhmm` of the submit.
    pub submitted: &'a str,
    /// `YYMMDDhhmm` of the end.
    pub done: &'a str,
    /// Three digits of error.
    pub err: &'a str,
}

impl fmt::Display for TextForm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, stat, submitted, done, err } = self;
        let delivered = if *stat == "DELIVRD" { "001" } else { "000" };
        write!(
            f,
            "id:{id} sub:001 dlvrd:{delivered} submit date:{submitted} done date:{done} stat:{stat} err:{err} text:"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlv::{Tlvs, tag};
    use bytes::Bytes;

    fn receipt(text: &'static str) -> Sm {
        Sm {
            esm_class: esm_class::RECEIPT,
            short_message: Bytes::from_static(text.as_bytes()),
            ..Sm::default()
        }
    }

    #[test]
    fn reads_appendix_b() {
        let sm = receipt(
            "id:0123456789 sub:001 dlvrd:001 submit date:2611240415 done date:2611240416 stat:DELIVRD err:000 text:Ma xac thuc",
        );
        let read = Receipt::parse(&sm).unwrap();
        assert_eq!(read.id, "0123456789");
        assert_eq!(read.state, MessageState::Delivered);
        assert_eq!(read.error.as_deref(), Some("000"));
        let done = CarrierTime { year: 2026, month: 11, day: 24, hour: 4, minute: 16, second: 0 };
        assert_eq!(read.done_at, Some(done));
        assert!(!format!("{read:?}").contains("xac"));
    }

    #[test]
    fn takes_other_orders_cases_gaps_and_additions() {
        let cases = [
            ("STAT:undeliv ID:aB-9 ERR:1F", "aB-9", MessageState::Undeliverable, Some("1F")),
            ("id: 77 stat: EXPIRED", "77", MessageState::Expired, None),
            ("id:77 stat:Failed err:101", "77", MessageState::Undeliverable, Some("101")),
            ("network:gsm id:77,stat:REJECTD,err:", "77", MessageState::Rejected, None),
            (
                "id:77 sub: dlvrd: submit date: done date: stat:WHATEVER err:9",
                "77",
                MessageState::Unknown,
                Some("9"),
            ),
            ("id:1\nDone Date:20261124041655\nstat:Delivered", "1", MessageState::Delivered, None),
        ];
        for (text, id, state, error) in cases {
            let read = Receipt::parse(&receipt(text)).unwrap();
            assert_eq!((read.id.as_str(), read.state, read.error.as_deref()), (id, state, error), "{text}");
        }
    }

    #[test]
    fn the_message_in_a_receipt_is_not_read() {
        let sm = receipt("id:1 text:id:2 stat:DELIVRD err:666");
        assert_eq!(Receipt::parse(&sm), Err(ReceiptError::NoState));
        let sm = receipt("id:1 err:topsecretcode stat:ACCEPTD");
        assert_eq!(Receipt::parse(&sm).unwrap().error, None);
    }

    #[test]
    fn parameters_go_before_text() {
        let mut sm = receipt("id:99 stat:ENROUTE err:001");
        sm.tlvs = Tlvs::new().with_c_octets(tag::RECEIPTED_MESSAGE_ID, "0x63").with_u8(tag::MESSAGE_STATE, 2);
        let read = Receipt::parse(&sm).unwrap();
        assert_eq!((read.id.as_str(), read.state), ("0x63", MessageState::Delivered));
        sm.short_message = Bytes::new();
        sm.esm_class = 0;
        assert_eq!(Receipt::parse(&sm).unwrap().id, "0x63");
    }

    #[test]
    fn an_unmarked_message_is_no_receipt() {
        let sm = Sm { esm_class: 0, ..receipt("id:1 stat:DELIVRD") };
        assert_eq!(Receipt::parse(&sm), Err(ReceiptError::NotAReceipt));
    }

    #[test]
    fn a_carrier_that_marks_nothing_is_read_by_its_words() {
        let unmarked = |text| Receipt::parse_unmarked(&Sm { esm_class: 0, ..receipt(text) });
        assert_eq!(unmarked("id:1 sub:001 stat:DELIVRD err:000").unwrap().id, "1");
        for text in ["hello id:1 stat:DELIVRD", "id:1 and no state", "stat:DELIVRD", "STOP"] {
            assert_eq!(unmarked(text), Err(ReceiptError::NotAReceipt), "{text}");
        }
    }

    #[test]
    fn a_receipt_in_ucs2_or_in_the_payload_is_read() {
        let text = "id:77 stat:UNDELIV err:011 text:M\u{e3}";
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let sm = Sm { data_coding: 8, short_message: Bytes::from(wide), ..receipt("") };
        let read = Receipt::parse(&sm).unwrap();
        assert_eq!((read.id.as_str(), read.state), ("77", MessageState::Undeliverable));
        let mut sm = receipt("");
        sm.tlvs.push(tag::MESSAGE_PAYLOAD, Bytes::from_static(b"id:78 stat:DELIVRD"));
        assert_eq!(Receipt::parse(&sm).unwrap().id, "78");
    }

    #[test]
    fn reads_the_forms_of_time() {
        let time = |text| CarrierTime::parse(text).map(|time| (time.year, time.month, time.second));
        assert_eq!(time("2611240415"), Some((2026, 11, 0)));
        assert_eq!(time("261124041509"), Some((2026, 11, 9)));
        assert_eq!(time("20261124041509"), Some((2026, 11, 9)));
        assert_eq!(time("202611240415"), Some((2026, 11, 0)));
        assert_eq!(time("2613240415"), None);
        assert_eq!(time("26112404"), None);
    }

    #[test]
    fn reads_what_it_writes() {
        let text =
            TextForm { id: "5", stat: "DELIVRD", submitted: "2611240415", done: "2611240415", err: "000" };
        let sm = Sm { short_message: Bytes::from(text.to_string()), ..receipt("") };
        assert_eq!(Receipt::parse(&sm).unwrap().state, MessageState::Delivered);
    }
}
