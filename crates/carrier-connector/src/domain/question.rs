//! Asking a carrier what became of a part (`query_sm`, SMPP 3.4 §4.8): the question, kept sealed until it is due, and what
//! its answer says.

use bytes::Bytes;
use sotto_core::delivery::ReceiptState;
use sotto_crypto::{AeadKey, CryptoError, Zeroizing, aead};
use sotto_smpp::{
    Address, COctets, CommandStatus, MessageState, Pdu,
    pdu::{QuerySm, QuerySmResp},
};

use super::receipt::Said;

/// Bound into every sealed question.
const CONTEXT: &[u8] = b"sotto.query.v1";

/// Seals what a question needs: the sender must be that of the submit, and must not be read in Redis.
pub(crate) fn seal(key: &AeadKey, id: &COctets, source: &Address) -> Result<Vec<u8>, CryptoError> {
    let mut plain = Zeroizing::new(vec![source.ton, source.npi]);
    plain.extend_from_slice(source.value.as_bytes());
    plain.push(0);
    plain.extend_from_slice(id.as_bytes());
    aead::seal(key, CONTEXT, &plain)
}

/// The question. None: it was sealed with another key, or is none.
pub(crate) fn open(key: &AeadKey, sealed: &[u8]) -> Option<Pdu> {
    let plain = aead::open(key, CONTEXT, sealed).ok()?;
    let [ton, npi, rest @ ..] = plain.as_slice() else { return None };
    let end = rest.iter().position(|octet| *octet == 0)?;
    let (source, id) = rest.split_at_checked(end)?;
    let octets = |octets: &[u8]| COctets::new(Bytes::from_owner(Zeroizing::new(octets.to_vec())));
    let question = QuerySm {
        message_id: octets(id.get(1..)?),
        source: Address { ton: *ton, npi: *npi, value: octets(source) },
        ..QuerySm::default()
    };
    Some(Pdu::QuerySm(Box::new(question)))
}

/// What the answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Its end.
    Ended(Said),
    /// It is on its way, or the carrier does not know: ask again later.
    NotYet,
    /// The carrier has nothing to say of it: it is not asked again.
    Never,
    /// Ask more slowly.
    Throttled,
}

/// Reads an answer.
pub(crate) fn answered(status: CommandStatus, answer: Option<&QuerySmResp>) -> Answered {
    match (status, answer) {
        (CommandStatus::ESME_ROK, Some(answer)) => {
            let error = if answer.error_code == 0 { String::new() } else { answer.error_code.to_string() };
            let said = Said::told(MessageState::from_octet(answer.message_state), error);
            if is_end(said.state) { Answered::Ended(said) } else { Answered::NotYet }
        }
        (CommandStatus::ESME_RTHROTTLED | CommandStatus::ESME_RMSGQFUL, _) => Answered::Throttled,
        (
            CommandStatus::ESME_RQUERYFAIL
            | CommandStatus::ESME_RINVMSGID
            | CommandStatus::ESME_RINVCMDID
            | CommandStatus::ESME_RINVSRCADR,
            _,
        ) => Answered::Never,
        (_, _) => Answered::NotYet,
    }
}

/// Whether a receipt of this state is the last.
pub(crate) const fn is_end(state: ReceiptState) -> bool {
    match state {
        ReceiptState::Delivered
        | ReceiptState::Expired
        | ReceiptState::Deleted
        | ReceiptState::Undeliverable
        | ReceiptState::Rejected => true,
        ReceiptState::Enroute | ReceiptState::Accepted | ReceiptState::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_opened_with_its_key_alone() {
        let key = AeadKey::from_bytes([1; 32]);
        let source = Address { ton: 5, npi: 0, value: COctets::from("ACMEBANK".to_owned()) };
        let sealed = seal(&key, &COctets::from("A1".to_owned()), &source).unwrap();
        assert!(!sealed.windows(4).any(|window| window == b"ACME"));
        let Some(Pdu::QuerySm(question)) = open(&key, &sealed) else { panic!("no question") };
        assert_eq!((question.message_id.as_str(), question.source.clone()), (Some("A1"), source));
        assert_eq!(open(&AeadKey::from_bytes([2; 32]), &sealed), None);
        assert_eq!(open(&key, &sealed[1..]), None);
    }

    #[test]
    fn only_an_end_ends_the_asking() {
        let answer =
            |message_state, error_code| QuerySmResp { message_state, error_code, ..QuerySmResp::default() };
        let ok = |answer: QuerySmResp| answered(CommandStatus::ESME_ROK, Some(&answer));
        let delivered = Said { state: ReceiptState::Delivered, error: String::new() };
        assert_eq!(ok(answer(2, 0)), Answered::Ended(delivered));
        let failed = Said { state: ReceiptState::Undeliverable, error: "27".to_owned() };
        assert_eq!(ok(answer(5, 27)), Answered::Ended(failed));
        for state in [0, 1, 6, 7, 99] {
            assert_eq!(ok(answer(state, 0)), Answered::NotYet, "{state}");
        }
        for (status, expected) in [
            (CommandStatus::ESME_RQUERYFAIL, Answered::Never),
            (CommandStatus::ESME_RINVCMDID, Answered::Never),
            (CommandStatus::ESME_RTHROTTLED, Answered::Throttled),
            (CommandStatus::ESME_RSYSERR, Answered::NotYet),
            (CommandStatus::ESME_ROK, Answered::NotYet),
        ] {
            assert_eq!(answered(status, None), expected, "{status}");
        }
    }
}
