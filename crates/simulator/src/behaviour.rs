//! How the carrier behaves, and how it decides for one submit.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sotto_core::{Classified, ErrorClass};
use sotto_smpp::MessageState;

/// Everything that can be set while it runs. Shares are from 0 to 1 and exact: of 100 submits a share of 0.1 hits
/// every tenth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behaviour {
    /// Whether receipts are sent to those who ask for them (`registered_delivery`).
    pub receipts: bool,
    /// Time from the submit to its receipt, in milliseconds.
    pub receipt_delay_ms: u64,
    /// Where a receipt tells its id and state.
    pub receipt_form: ReceiptForm,
    /// The word after `stat:`, one of the eight of SMPP 3.4 Appendix B.
    pub receipt_state: String,
    /// A receipt with the state `ENROUTE` goes before the final one, without delay.
    pub receipt_enroute_first: bool,
    /// The text form ends with the message itself, as many carriers write it.
    pub receipt_echoes_text: bool,
    /// Receipts repeat the `user_message_reference` of the submit, where there is one.
    pub receipt_reference: bool,
    /// Send the receipt first and answer the submit after it; the delay does not apply.
    pub receipt_before_response: bool,
    /// Share of submits whose receipt goes before their answer.
    pub early_receipts: f64,
    /// Share of receipts that come late, and their time from the submit, in milliseconds.
    pub late_receipts: f64,
    /// See `late_receipts`.
    pub late_receipt_delay_ms: u64,
    /// Share of receipts before which one with the state `ENROUTE` goes.
    pub enroute_receipts: f64,
    /// Share of receipts that are sent twice.
    pub duplicate_receipts: f64,
    /// Share of submits after which a receipt goes out with an id that was never given.
    pub orphan_receipts: f64,
    /// Share of submits that are answered late, so that answers change places, and their time, in milliseconds.
    pub slow_answers: f64,
    /// See `slow_answers`.
    pub slow_answer_delay_ms: u64,
    /// Share of submits after which a PDU of an unknown command and nonsense goes out.
    pub garbage: f64,
    /// Share of submits that are refused.
    pub refuse_share: f64,
    /// The command status of refusals.
    pub refuse_status: u32,
    /// Time from a submit to its answer, in milliseconds.
    pub response_delay_ms: u64,
    /// Share of submits that are taken and never answered.
    pub never_answer_share: f64,
    /// Submits of one partner above this many in any second are refused with `ESME_RTHROTTLED`.
    pub throttle_per_second: Option<u32>,
    /// Every link is cut at this many submits, the last one taken and not answered.
    pub drop_after_submits: Option<u64>,
    /// How message ids are written.
    pub message_id_form: MessageIdForm,
    /// How receipts write them; null: as answers do.
    pub receipt_id_form: Option<MessageIdForm>,
    /// Binds of one partner at a time; beyond it `ESME_RALYBND`. Null: any number.
    pub max_binds: Option<u32>,
    /// Every bind is refused with this status.
    pub refuse_bind_status: Option<u32>,
    /// Binds are never answered; the connection stays.
    pub mute_bind: bool,
}

/// Where a receipt tells its id and state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptForm {
    /// In the text of SMPP 3.4 Appendix B.
    Text,
    /// In `receipted_message_id` and `message_state`.
    Tlv,
    /// In both.
    Both,
}

/// How message ids are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageIdForm {
    /// Decimal digits.
    Decimal,
    /// Decimal digits, filled with zeros to twenty.
    Padded,
    /// Upper-case hexadecimal digits.
    Hex,
    /// A UUID in upper case.
    Uuid,
}

impl MessageIdForm {
    pub(crate) fn write(self, id: u64) -> String {
        match self {
            Self::Decimal => id.to_string(),
            Self::Padded => format!("{id:020}"),
            Self::Hex => format!("{id:X}"),
            Self::Uuid => {
                let (high, low) = (id >> 48, id & 0xFFFF_FFFF_FFFF);
                format!("00000000-0000-4000-{:04X}-{low:012X}", 0x8000 | (high & 0x3FFF))
            }
        }
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            receipts: true,
            receipt_delay_ms: 50,
            receipt_form: ReceiptForm::Both,
            receipt_state: MessageState::Delivered.word().to_owned(),
            receipt_enroute_first: false,
            receipt_echoes_text: false,
            receipt_reference: true,
            receipt_before_response: false,
            early_receipts: 0.0,
            late_receipts: 0.0,
            late_receipt_delay_ms: 2_000,
            enroute_receipts: 0.0,
            duplicate_receipts: 0.0,
            orphan_receipts: 0.0,
            slow_answers: 0.0,
            slow_answer_delay_ms: 200,
            garbage: 0.0,
            refuse_share: 0.0,
            refuse_status: 0x58,
            response_delay_ms: 0,
            never_answer_share: 0.0,
            throttle_per_second: None,
            drop_after_submits: None,
            message_id_form: MessageIdForm::Decimal,
            receipt_id_form: None,
            max_binds: None,
            refuse_bind_status: None,
            mute_bind: false,
        }
    }
}

/// Why a behaviour cannot be set. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum BehaviourError {
    /// Not a JSON object, an unknown field, or a value of the wrong type.
    #[error("behaviour cannot be read: {0}")]
    Form(String),
    /// A value outside its range.
    #[error("{field} must be {expected}")]
    Range {
        /// Which field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

impl Classified for BehaviourError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

impl Behaviour {
    /// This behaviour with the fields of `patch` replaced.
    pub fn patched(&self, patch: Value) -> Result<Self, BehaviourError> {
        let form = |error: serde_json::Error| BehaviourError::Form(error.to_string());
        let mut whole = serde_json::to_value(self).map_err(form)?;
        let (Value::Object(fields), Value::Object(patch)) = (&mut whole, patch) else {
            return Err(BehaviourError::Form("it must be an object".to_owned()));
        };
        fields.extend(patch);
        let patched: Self = serde_json::from_value(whole).map_err(form)?;
        patched.check()?;
        Ok(patched)
    }

    /// The state in receipts.
    pub(crate) fn state(&self) -> MessageState {
        MessageState::from_word(&self.receipt_state)
    }

    fn check(&self) -> Result<(), BehaviourError> {
        let shares = [
            ("early_receipts", self.early_receipts),
            ("late_receipts", self.late_receipts),
            ("enroute_receipts", self.enroute_receipts),
            ("duplicate_receipts", self.duplicate_receipts),
            ("orphan_receipts", self.orphan_receipts),
            ("slow_answers", self.slow_answers),
            ("garbage", self.garbage),
            ("refuse_share", self.refuse_share),
            ("never_answer_share", self.never_answer_share),
        ];
        for (field, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(BehaviourError::Range { field, expected: "from 0 to 1" });
            }
        }
        if self.refuse_status == 0 {
            return Err(BehaviourError::Range { field: "refuse_status", expected: "above 0" });
        }
        if self.refuse_bind_status == Some(0) {
            return Err(BehaviourError::Range { field: "refuse_bind_status", expected: "null or above 0" });
        }
        if self.drop_after_submits == Some(0) {
            return Err(BehaviourError::Range { field: "drop_after_submits", expected: "null or above 0" });
        }
        if self.state().word() != self.receipt_state {
            let expected = "one of DELIVRD, UNDELIV, EXPIRED, DELETED, ACCEPTD, REJECTD, ENROUTE, UNKNOWN";
            return Err(BehaviourError::Range { field: "receipt_state", expected });
        }
        Ok(())
    }
}

/// Hits an exact share of its calls, evenly spread, without randomness.
#[derive(Debug, Default)]
pub(crate) struct Share(f64);

impl Share {
    /// Whether this call is one of the share.
    pub(crate) fn hit(&mut self, share: f64) -> bool {
        self.0 += share;
        // The small slack keeps ten times 0.1 a whole.
        let hit = self.0 >= 1.0 - 1e-9;
        if hit {
            self.0 -= 1.0;
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_changes_only_its_fields() {
        let patch = json!({"receipt_delay_ms": 7, "throttle_per_second": 3, "message_id_form": "hex"});
        let patched = Behaviour::default().patched(patch).unwrap();
        let expected = Behaviour {
            receipt_delay_ms: 7,
            throttle_per_second: Some(3),
            message_id_form: MessageIdForm::Hex,
            ..Behaviour::default()
        };
        assert_eq!(patched, expected);
        assert_eq!(patched.patched(json!({"throttle_per_second": null})).unwrap().throttle_per_second, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for patch in [
            json!({"recipts": true}),
            json!({"refuse_share": 1.5}),
            json!({"refuse_status": 0}),
            json!({"drop_after_submits": 0}),
            json!({"orphan_receipts": -0.1}),
            json!({"garbage": 2}),
            json!({"refuse_bind_status": 0}),
            json!({"receipt_id_form": "octal"}),
            json!({"receipt_state": "DELIVERED"}),
            json!({"receipt_form": "fax"}),
            json!([]),
        ] {
            assert!(Behaviour::default().patched(patch.clone()).is_err(), "{patch}");
        }
    }

    #[test]
    fn a_share_is_exact() {
        for (share, expected) in [(0.0, 0), (0.1, 10), (0.25, 25), (1.0, 100)] {
            let mut counted = Share::default();
            assert_eq!((0..100).filter(|_| counted.hit(share)).count(), expected);
        }
    }
}
