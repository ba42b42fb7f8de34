//! A carrier's message ids in one canonical form, so that a receipt finds its message (CAR-3, INV-6).

use sotto_core::carriers::MessageIdForm;

/// The most octets of a carrier's id (SMPP 3.4 §5.2.23, without the final NUL).
const MAX: usize = 64;

/// A carrier's message id in canonical form: numbers are decimal without leading zeros, whatever base they came in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CarrierId(String);

impl CarrierId {
    /// Normalises an id that is written in the given form. `None` if there is no id in it, or octets that no id has.
    ///
    /// What is announced as a number and is none is compared as it is.
    pub(crate) fn new(form: MessageIdForm, id: &str) -> Option<Self> {
        let id = id.trim();
        if id.is_empty() || id.len() > MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let number = match form {
            MessageIdForm::Opaque => None,
            MessageIdForm::Decimal => {
                id.bytes().all(|byte| byte.is_ascii_digit()).then(|| without_zeros(id).to_owned())
            }
            MessageIdForm::Hex => decimal(id),
            MessageIdForm::Uuid => uuid(id),
        };
        Some(Self(number.unwrap_or_else(|| id.to_owned())))
    }

    /// An id that is canonical already, as events and claims hold it.
    pub(crate) fn canonical(id: &str) -> Option<Self> {
        Self::new(MessageIdForm::Opaque, id)
    }

    /// The canonical text: 1 to 64 visible ASCII characters.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The 32 digits of a UUID in lower case (RFC 9562 §4).
fn uuid(id: &str) -> Option<String> {
    let bare = id.strip_prefix('{').and_then(|id| id.strip_suffix('}')).unwrap_or(id);
    let digits: String = bare.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    (digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digits)
}

fn without_zeros(digits: &str) -> &str {
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() { "0" } else { significant }
}

/// The decimal digits of a hexadecimal number. One that has more than [`MAX`] of them cannot stand in a receipt in
/// decimal: it stays hexadecimal, in lower case and without leading zeros.
fn decimal(hex: &str) -> Option<String> {
    let hex = hex.strip_prefix("0x").or_else(|| hex.strip_prefix("0X")).unwrap_or(hex);
    if hex.is_empty() {
        return None;
    }
    // Least significant digit first.
    let mut digits: Vec<u8> = vec![0];
    for nibble in hex.chars() {
        let mut carry = nibble.to_digit(16)?;
        for digit in &mut digits {
            let sum = u32::from(*digit) * 16 + carry;
            *digit = u8::try_from(sum % 10).ok()?;
            carry = sum / 10;
        }
        while carry > 0 {
            digits.push(u8::try_from(carry % 10).ok()?);
            carry /= 10;
        }
    }
    if digits.len() > MAX {
        return Some(without_zeros(&hex.to_ascii_lowercase()).to_owned());
    }
    let text: String = digits.iter().rev().map(|digit| char::from(b'0' + digit)).collect();
    Some(without_zeros(&text).to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sotto_smpp::{
        CommandId, CommandStatus, Header, MessageState, Pdu, RawPdu, Receipt, Sm, Tlvs, Tolerance,
        pdu::esm_class, tlv::tag,
    };

    use super::*;

    fn text(form: MessageIdForm, id: &str) -> Option<String> {
        CarrierId::new(form, id).map(|id| id.as_str().to_owned())
    }

    #[test]
    fn forms_meet_in_one() {
        for (form, id, canonical) in [
            (MessageIdForm::Decimal, "0026", "26"),
            (MessageIdForm::Decimal, "000", "0"),
            (MessageIdForm::Hex, "1a", "26"),
            (MessageIdForm::Hex, "0000001A", "26"),
            (MessageIdForm::Hex, "0x1A", "26"),
            (MessageIdForm::Hex, "FFFFFFFFFFFFFFFFFFFF", "1208925819614629174706175"),
            (MessageIdForm::Opaque, " aB-0026 ", "aB-0026"),
            (
                MessageIdForm::Uuid,
                "{0199F5E4-7A31-7CC0-9A4B-000000000001}",
                "0199f5e47a317cc09a4b000000000001",
            ),
            (MessageIdForm::Uuid, "0199f5e47a317cc09a4b000000000001", "0199f5e47a317cc09a4b000000000001"),
            (MessageIdForm::Uuid, "0199F5E4-not", "0199F5E4-not"),
            (MessageIdForm::Decimal, "4f2e-00", "4f2e-00"),
            (MessageIdForm::Hex, "not-hex", "not-hex"),
        ] {
            assert_eq!(text(form, id).as_deref(), Some(canonical), "{id}");
        }
    }

    #[test]
    fn no_id_is_none() {
        for id in ["", "  ", "a b", "m\u{e3}", &"1".repeat(65)] {
            assert_eq!(text(MessageIdForm::Opaque, id), None, "{id}");
        }
    }

    /// Ways to write a UUID.
    fn written(uuid: u128) -> impl Strategy<Value = String> {
        let digits = format!("{uuid:032x}");
        let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| digits[group].to_owned());
        (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(move |(hyphens, braces, upper)| {
            let id = groups.join(if hyphens { "-" } else { "" });
            let id = if braces { format!("{{{id}}}") } else { id };
            if upper { id.to_uppercase() } else { id }
        })
    }

    /// Receipts that name an id: in the parameter with as many NULs as the carrier likes, or in the text.
    fn receipts(id: String) -> impl Strategy<Value = Sm> {
        let by_parameter = (0_usize..4).prop_map({
            let id = id.clone();
            move |nuls| {
                let octets = format!("{id}{}", "\0".repeat(nuls)).into_bytes();
                Sm {
                    tlvs: Tlvs::new()
                        .with(tag::RECEIPTED_MESSAGE_ID, octets.into())
                        .with_u8(tag::MESSAGE_STATE, 2),
                    ..Sm::default()
                }
            }
        });
        let between = prop::sample::select(&[" ", "\0", "\0\0 ", ", ", "\r\n", " \t"][..]);
        let end = prop::sample::select(&["", "\0", " text:", " text:id:9 stat:UNDELIV\0"][..]);
        let by_text = (between, end).prop_map(move |(between, end)| Sm {
            esm_class: esm_class::RECEIPT,
            short_message: format!("id:{id}{between}sub:001{between}stat:DELIVRD{between}err:000{end}")
                .into(),
            ..Sm::default()
        });
        prop_oneof![by_parameter, by_text]
    }

    /// What is read of a receipt.
    fn read(form: MessageIdForm, sm: &Sm) -> Option<CarrierId> {
        let receipt = Receipt::parse(sm).unwrap();
        assert_eq!(receipt.state, MessageState::Delivered);
        CarrierId::new(form, &receipt.id)
    }

    proptest! {
        #[test]
        fn a_uuid_is_one_however_answers_and_receipts_write_it(
            (answer, receipt) in any::<u128>().prop_flat_map(|uuid| {
                (written(uuid), written(uuid).prop_flat_map(receipts))
            }),
        ) {
            let answer = CarrierId::new(MessageIdForm::Uuid, &answer);
            prop_assert!(answer.is_some());
            prop_assert_eq!(read(MessageIdForm::Uuid, &receipt), answer);
        }

        #[test]
        fn no_nul_belongs_to_an_id(
            (id, receipt) in "[0-9A-Za-z-]{1,64}".prop_flat_map(|id| (Just(id.clone()), receipts(id))),
        ) {
            prop_assert_eq!(read(MessageIdForm::Opaque, &receipt), CarrierId::new(MessageIdForm::Opaque, &id));
        }

        /// Carriers fill the field of the id in an answer with NULs.
        #[test]
        fn nuls_after_the_id_of_an_answer_are_not_read(id in "[0-9A-Za-z-]{1,40}", nuls in 1_usize..24) {
            let body = format!("{id}{}", "\0".repeat(nuls)).into_bytes();
            let header = Header {
                id: CommandId::SUBMIT_SM_RESP,
                status: CommandStatus::ESME_ROK,
                sequence: 1,
            };
            let answer = RawPdu { header, body: body.into() }.decode_with(Tolerance::CARRIER);
            let Ok(Pdu::SubmitSmResp(answer)) = answer else { panic!("{answer:?}") };
            prop_assert_eq!(answer.message_id.as_str(), Some(id.as_str()));
        }

        #[test]
        fn hex_and_decimal_of_one_number_are_one_id(number: u128, zeros in 0_usize..8) {
            let pad = "0".repeat(zeros);
            let decimal = text(MessageIdForm::Decimal, &format!("{pad}{number}"));
            prop_assert_eq!(&text(MessageIdForm::Hex, &format!("{pad}{number:x}")), &decimal);
            prop_assert_eq!(&text(MessageIdForm::Hex, &format!("{pad}{number:X}")), &decimal);
            prop_assert_eq!(decimal, Some(number.to_string()));
        }

        #[test]
        fn canonical_text_always_fits_an_event(id in "\\PC{0,80}") {
            for form in [MessageIdForm::Decimal, MessageIdForm::Hex, MessageIdForm::Uuid, MessageIdForm::Opaque] {
                if let Some(id) = CarrierId::new(form, &id) {
                    prop_assert!((1..=MAX).contains(&id.as_str().len()));
                    prop_assert!(id.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
                }
            }
        }
    }
}
