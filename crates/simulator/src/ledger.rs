//! What the carrier was sent, and how often.

use serde::Serialize;
use sotto_core::{
    Timestamp,
    text::{self, Encoding},
};
use sotto_smpp::{CommandStatus, Sm};
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fmt,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
};

/// Messages remembered.
pub const RECORDS: usize = 200_000;

/// Parts remembered for the count of duplicates.
const PARTS: usize = 2_000_000;

/// One part that was taken. `Debug` shows only the carrier's id.
#[derive(Clone, Serialize)]
pub struct Record {
    /// Who submitted.
    pub system_id: String,
    /// The carrier's id.
    pub message_id: String,
    /// When, in milliseconds since the Unix epoch.
    pub at: Timestamp,
    /// The same in microseconds, for measurements.
    pub at_micros: i64,
    /// The sender.
    pub source: String,
    /// The recipient.
    pub destination: String,
    /// The alphabet octet.
    pub data_coding: u8,
    /// Mode, type and features.
    pub esm_class: u8,
    /// Which receipts were asked for.
    pub registered_delivery: u8,
    /// `validity_period` as it came.
    pub validity_period: String,
    /// The text without user data header; hexadecimal digits for an alphabet that is none.
    pub text: String,
    /// Its place in a longer message.
    pub concatenation: Option<Concatenation>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("message_id", &self.message_id).finish_non_exhaustive()
    }
}

/// The place of a part in a longer message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Concatenation {
    /// The reference that the parts share.
    pub reference: u16,
    /// How many parts there are.
    pub total: u8,
    /// Which one this is, from 1.
    pub index: u8,
}

/// How often what happened since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Binds accepted.
    pub binds: u64,
    /// Binds refused.
    pub binds_refused: u64,
    /// Links bound now.
    pub links: u64,
    /// The most links that were bound at one time.
    pub most_links: u64,
    /// `submit_sm` received, whatever became of them.
    pub submits: u64,
    /// Parts taken that differ in recipient, place in the message, or text.
    pub parts: u64,
    /// Parts taken that had been taken before: same recipient, user data header and payload.
    pub duplicates: u64,
    /// `query_sm` received.
    pub queries: u64,
    /// Answers by status.
    pub responses: BTreeMap<String, u64>,
    /// Submits taken and left without an answer on purpose.
    pub unanswered: u64,
    /// Receipts made for ids that were never given.
    pub orphans_sent: u64,
    /// Receipts written, again and again if need be.
    pub receipts_sent: u64,
    /// Receipts that the partner took.
    pub receipts_acked: u64,
    /// Receipts that the partner refused or left unanswered; they are sent again.
    pub receipts_failed: u64,
    /// Receipts given up: queue full, or not taken for a quarter of an hour.
    pub receipts_lost: u64,
    /// Receipts and messages from handsets that wait for their time, a link or an answer.
    pub receipts_waiting: u64,
    /// Parts of messages from handsets that partners were to get.
    pub written: u64,
    /// Of these taken by the partner.
    pub written_acked: u64,
    /// Of these refused or left unanswered; they are sent again.
    pub written_failed: u64,
    /// Of these given up.
    pub written_lost: u64,
}

/// The memory of the carrier.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    records: VecDeque<Record>,
    seen: HashSet<u64>,
    seen_order: VecDeque<u64>,
    hasher: RandomState,
    /// Where parts are written too.
    journal: Option<File>,
    pub(crate) counters: Counters,
}

impl Ledger {
    /// An empty memory that writes each part to `journal` too, if there is one.
    pub(crate) fn new(journal: Option<File>) -> Self {
        Self { journal, ..Self::default() }
    }

    /// Remembers a part that was taken.
    ///
    /// # Errors
    /// The journal does not take it: it is not remembered, and must not be answered as taken.
    pub(crate) fn take(
        &mut self,
        sm: &Sm,
        system_id: &str,
        message_id: &str,
        at_micros: i64,
    ) -> io::Result<()> {
        let (header, payload) = sm.split_header();
        let record = Record {
            system_id: system_id.to_owned(),
            message_id: message_id.to_owned(),
            at: Timestamp::from_unix_millis(at_micros.div_euclid(1000)),
            at_micros,
            source: String::from_utf8_lossy(sm.source.value.as_bytes()).into_owned(),
            destination: String::from_utf8_lossy(sm.destination.value.as_bytes()).into_owned(),
            data_coding: sm.data_coding,
            esm_class: sm.esm_class,
            registered_delivery: sm.registered_delivery,
            validity_period: String::from_utf8_lossy(sm.validity_period.as_bytes()).into_owned(),
            text: decode(sm.data_coding, &payload),
            concatenation: concatenation(sm, &header),
        };
        if let Some(journal) = &mut self.journal {
            let mut line = serde_json::to_vec(&record)?;
            line.push(b'\n');
            // In one piece: who is killed leaves whole lines.
            journal.write_all(&line)?;
        }
        let part = self.hasher.hash_one((sm.destination.value.as_bytes(), &header, &payload));
        if self.seen.insert(part) {
            self.counters.parts = self.counters.parts.saturating_add(1);
            self.seen_order.push_back(part);
            if self.seen_order.len() > PARTS
                && let Some(oldest) = self.seen_order.pop_front()
            {
                self.seen.remove(&oldest);
            }
        } else {
            self.counters.duplicates = self.counters.duplicates.saturating_add(1);
        }
        if self.records.len() >= RECORDS {
            self.records.pop_front();
        }
        self.records.push_back(record);
        Ok(())
    }

    /// Counts an answer.
    pub(crate) fn responded(&mut self, status: CommandStatus) {
        let count = self.counters.responses.entry(status.to_string()).or_default();
        *count = count.saturating_add(1);
    }

    /// The part with this id, if its sender is this one: when it was taken.
    pub(crate) fn find(&self, message_id: &[u8], source: &[u8]) -> Option<Timestamp> {
        let found = self.records.iter().rev().find(|record| record.message_id.as_bytes() == message_id)?;
        (found.source.as_bytes() == source).then_some(found.at)
    }

    /// Recipient and time of arrival of the last `limit` parts, oldest first.
    pub(crate) fn arrivals(&self, limit: usize) -> Vec<(String, i64)> {
        let skipped = self.records.len().saturating_sub(limit);
        self.records
            .iter()
            .skip(skipped)
            .map(|record| (record.destination.clone(), record.at_micros))
            .collect()
    }

    /// The last `limit` parts, oldest first.
    pub(crate) fn last(&self, limit: usize) -> Vec<Record> {
        self.records.iter().skip(self.records.len().saturating_sub(limit)).cloned().collect()
    }

    /// Forgets everything but the links that are bound.
    pub(crate) fn reset(&mut self) {
        let links = self.counters.links;
        let counters = Counters { links, most_links: links, ..Counters::default() };
        *self = Self { counters, journal: self.journal.take(), ..Self::default() };
    }
}

/// The text as a handset shows it.
fn decode(data_coding: u8, payload: &[u8]) -> String {
    match data_coding {
        0 => text::decode(Encoding::Gsm7, payload),
        8 => text::decode(Encoding::Ucs2, payload),
        // IA5 and Latin-1 (SMPP 3.4 §5.2.19): each octet is its code point.
        1 | 3 => payload.iter().map(|octet| char::from(*octet)).collect(),
        _ => hex::encode(payload),
    }
}

/// The place of the part, from its user data header (3GPP TS 23.040 §9.2.3.24.1, .8) or `sar_*` parameters.
fn concatenation(sm: &Sm, header: &[u8]) -> Option<Concatenation> {
    if let Some(segment) = sm.tlvs.segment() {
        let sotto_smpp::tlv::Segment { reference, total, number } = segment;
        return Some(Concatenation { reference, total, index: number });
    }
    let mut elements = header.get(1..)?;
    while let [kind, length, rest @ ..] = elements {
        let (value, after) = rest.split_at_checked(usize::from(*length))?;
        match (kind, value) {
            (0x00, [reference, total, index]) => {
                return Some(Concatenation {
                    reference: u16::from(*reference),
                    total: *total,
                    index: *index,
                });
            }
            (0x08, [high, low, total, index]) => {
                let reference = u16::from_be_bytes([*high, *low]);
                return Some(Concatenation { reference, total: *total, index: *index });
            }
            _ => elements = after,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use sotto_smpp::pdu::esm_class;

    fn sm(destination: &str, message: &'static [u8], esm_class: u8) -> Sm {
        let mut sm = Sm { short_message: Bytes::from_static(message), esm_class, ..Sm::default() };
        sm.destination.value = destination.into();
        sm
    }

    #[test]
    fn tells_a_part_sent_twice_from_two_parts() {
        let mut ledger = Ledger::default();
        let first = sm("84901", b"\x05\x00\x03\x07\x02\x01hi", esm_class::UDHI);
        let second = sm("84901", b"\x05\x00\x03\x07\x02\x02hi", esm_class::UDHI);
        let other = sm("84902", b"\x05\x00\x03\x07\x02\x01hi", esm_class::UDHI);
        for part in [&first, &second, &other, &first] {
            ledger.take(part, "a", "1", 0).unwrap();
        }
        assert_eq!((ledger.counters.parts, ledger.counters.duplicates), (3, 1));
        let records = ledger.last(2);
        assert_eq!(records.len(), 2);
        assert_eq!(records[1].text, "hi");
        assert_eq!(records[1].concatenation, Some(Concatenation { reference: 7, total: 2, index: 1 }));
        assert!(!format!("{records:?}").contains("8490"));
    }

    #[test]
    fn what_cannot_be_written_down_is_not_taken() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut ledger = Ledger::new(Some(file.reopen().unwrap()));
        let part = sm("84901", b"hi", 0);
        ledger.take(&part, "a", "1", 0).unwrap();
        ledger.reset();
        ledger.take(&part, "a", "2", 0).unwrap();
        let written = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<serde_json::Value> =
            written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[1]["message_id"], &lines[1]["text"]), (&"2".into(), &"hi".into()));

        // A disk that is full.
        let mut ledger = Ledger::new(Some(File::options().write(true).open("/dev/full").unwrap()));
        ledger.take(&part, "a", "1", 0).unwrap_err();
        assert_eq!((ledger.counters.parts, ledger.last(1).len()), (0, 0));
    }

    #[test]
    fn reads_long_messages_in_every_form() {
        let whole = |octets: &'static [u8], esm_class| {
            let mut sm = sm("84901", b"", esm_class);
            sm.tlvs = sotto_smpp::Tlvs::new()
                .with(sotto_smpp::tlv::tag::MESSAGE_PAYLOAD, Bytes::from_static(octets));
            sm
        };
        let mut by_parameters = sm("84901", b"hi", 0);
        by_parameters.tlvs = sotto_smpp::Tlvs::new()
            .with_u16(sotto_smpp::tlv::tag::SAR_MSG_REF_NUM, 0x0107)
            .with_u8(sotto_smpp::tlv::tag::SAR_TOTAL_SEGMENTS, 2)
            .with_u8(sotto_smpp::tlv::tag::SAR_SEGMENT_SEQNUM, 1);
        let place = |reference| Some(Concatenation { reference, total: 2, index: 1 });
        for (sm, expected) in [
            (sm("84901", b"\x05\x00\x03\x07\x02\x01hi", esm_class::UDHI), place(7)),
            (sm("84901", b"\x06\x08\x04\x01\x07\x02\x01hi", esm_class::UDHI), place(0x0107)),
            (by_parameters, place(0x0107)),
            (whole(b"hi", 0), None),
            (whole(b"\x05\x00\x03\x07\x02\x01hi", esm_class::UDHI), place(7)),
        ] {
            let mut ledger = Ledger::default();
            ledger.take(&sm, "a", "1", 0).unwrap();
            let record = ledger.last(1).remove(0);
            assert_eq!((record.text.as_str(), record.concatenation), ("hi", expected));
        }
    }

    #[test]
    fn reads_the_wide_reference_past_other_elements() {
        let header = [9, 0x24, 1, 2, 0x08, 4, 0x12, 0x34, 3, 2];
        let found = concatenation(&Sm::default(), &header);
        assert_eq!(found, Some(Concatenation { reference: 0x1234, total: 3, index: 2 }));
        assert_eq!(concatenation(&Sm::default(), &[2, 0, 9]), None);
    }

    #[test]
    fn decodes_by_alphabet() {
        assert_eq!(decode(0, b"a\x00"), "a@");
        assert_eq!(decode(8, &[0x1E, 0xA1]), "ạ");
        assert_eq!(decode(3, &[0xE9]), "é");
        assert_eq!(decode(4, &[0xE9, 1]), "e901");
    }
}
