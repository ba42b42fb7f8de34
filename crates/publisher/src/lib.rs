//! For programs that send over NATS: makes the bytes of a request, sealed, and reads those of its answer.
//!
//! It opens no connection: publish the request with any NATS client, as a request on [`subject`], and give what comes
//! back to [`results`]. `sotto client nats add` writes what a program needs for that: the seed of its nkey, a certificate,
//! subject and inbox prefix, and the JWK that [`IntakeKey::from_jwk`] reads. How a request is sealed stands byte by byte in
//! `docs/formats/submission.md`.
//!
//! When no answer comes, send a request with the same idempotency keys again: it stays one SMS a message. A key counts
//! for at least 24 hours.
//!
//! ```
//! use sotto_publisher::{Destination, IntakeKey, request, results, subject};
//! use sotto_publisher::message::{MessageClass, OutboundMessage, SendStreamRequest};
//!
//! # fn ask(_: &str, _: &[u8]) -> Vec<u8> { vec![0x0a, 0] }
//! # let jwk = r#"{"kty":"OKP","crv":"X25519","x":"eaYx7t4b-cmPEgMs3q3Q56B5OY_HhriMyEbsia-FpRo",
//! #   "kid":"YKbZ9qRn_duml9RTz_7p5FNztMst4VCEVI2fzJCu4TE","use":"enc"}"#;
//! # let token = "eyJ";
//! let key = IntakeKey::from_jwk(jwk)?; // intake-key.json
//! let to = Destination { cell: "vn".parse()?, tenant: "acme".parse()? };
//! let message = OutboundMessage {
//!     to: "+84912345678".to_owned(),
//!     from: "ACMEBANK".to_owned(),
//!     text: "Your code is 482913".to_owned(),
//!     class: MessageClass::Otp.into(),
//!     ..OutboundMessage::default()
//! };
//! let messages = vec![SendStreamRequest {
//!     reference: 1,
//!     message: Some(message),
//!     idempotency_key: "order-7319".to_owned(),
//! }];
//! let sealed = request(&key, &to, token, messages)?; // token: an access token of identity
//! let answer = ask(&subject(&to), &sealed);
//! for result in results(&answer)? {
//!     println!("{}: {:?}", result.reference, result.result);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(missing_docs)]

use prost::Message as _;
use serde::Deserialize;
use sotto_core::{CellId, Classified, ErrorClass, TenantId};
use sotto_crypto::{
    CryptoError,
    hpke::{SealingKey, SubmissionBinding},
};
use zeroize::Zeroizing;

/// The messages of requests and answers (`sotto.message.v1`).
pub use sotto_proto::message::v1 as message;
pub use sotto_proto::{MAX_SUBMIT_BYTES, MAX_SUBMIT_MESSAGES};

use message::{
    SealedSubmission, SendError, SendStreamRequest, SendStreamResponse, Submission, SubmitRequest,
    SubmitResponse, SubmitResults, submit_request::Form, submit_response::Result as Outcome,
};

/// The key that requests of a cell are sealed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntakeKey(SealingKey);

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    kid: String,
}

impl IntakeKey {
    /// Reads the JWK (RFC 7517, RFC 8037) that the cell's operator hands out, `intake-key.json`.
    ///
    /// # Errors
    /// [`KeyError`] for anything but an X25519 key whose id is its thumbprint.
    pub fn from_jwk(json: &str) -> Result<Self, KeyError> {
        let jwk: Jwk = serde_json::from_str(json).map_err(|_| KeyError)?;
        let key = SealingKey::from_jwk_x(&jwk.x).map_err(|_| KeyError)?;
        let ours = jwk.kty == "OKP" && jwk.crv == "X25519" && jwk.kid == key.thumbprint();
        if ours { Ok(Self(key)) } else { Err(KeyError) }
    }
}

/// A text that is not the JWK of an intake key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the JWK of an intake key (kty OKP, crv X25519, kid its thumbprint): take the cell's intake-key.json"
)]
pub struct KeyError;

/// Whose messages go where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The cell.
    pub cell: CellId,
    /// The tenant that the client acts for.
    pub tenant: TenantId,
}

/// The subject that requests are published on.
pub fn subject(to: &Destination) -> String {
    format!("sotto.v1.{}.client.{}.submit", to.cell, to.tenant)
}

/// Why a request cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// None, or too many messages.
    #[error("a request has 1 to {MAX_SUBMIT_MESSAGES} messages")]
    Count,
    /// The messages are too long together.
    #[error("a request has at most {MAX_SUBMIT_BYTES} bytes: send fewer messages at once")]
    TooLarge,
    /// A message without an idempotency key.
    #[error("message {0} (from 1) has no idempotency key: over NATS each needs one")]
    NoKey(usize),
    /// Nothing can be sealed to the key.
    #[error("nothing can be sealed to this intake key")]
    Seal(#[source] CryptoError),
}

/// Makes a request of 1 to [`MAX_SUBMIT_MESSAGES`] messages, each with an idempotency key, in the name of the client that the
/// access token was given to.
///
/// # Panics
/// When the operating system gives no randomness.
///
/// # Errors
/// [`RequestError`]; what messages say is judged by the cell.
pub fn request(
    key: &IntakeKey,
    to: &Destination,
    access_token: &str,
    messages: Vec<SendStreamRequest>,
) -> Result<Vec<u8>, RequestError> {
    if messages.is_empty() || messages.len() > MAX_SUBMIT_MESSAGES {
        return Err(RequestError::Count);
    }
    if let Some(place) = messages.iter().position(|message| message.idempotency_key.is_empty()) {
        return Err(RequestError::NoKey(place + 1));
    }
    let submission = Submission { access_token: access_token.to_owned(), messages };
    let plaintext = Zeroizing::new(submission.encode_to_vec());
    let binding = SubmissionBinding { cell: to.cell.as_str(), tenant: to.tenant.as_str() };
    let sealed = key.0.seal_submission(&binding, &plaintext).map_err(RequestError::Seal)?;
    let sealed = SealedSubmission {
        key_id: key.0.thumbprint(),
        encapsulated_key: sealed.encapsulated_key.to_vec().into(),
        ciphertext: sealed.ciphertext.into(),
    };
    let request = SubmitRequest { form: Some(Form::Sealed(sealed)) }.encode_to_vec();
    if request.len() > MAX_SUBMIT_BYTES { Err(RequestError::TooLarge) } else { Ok(request) }
}

/// Why an answer brings no results.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AnswerError {
    /// The request as a whole was refused: nothing of it was accepted.
    #[error("the request was refused: {}", .0.message)]
    Refused(SendError),
    /// The answer is not one of this protocol.
    #[error("the answer cannot be read: whether anything was accepted is not known")]
    Unreadable,
}

impl Classified for AnswerError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Refused(error) => {
                let after = error.retry_after.and_then(|after| after.try_into().ok());
                after.map_or(ErrorClass::Reject, |after| ErrorClass::Retry { after })
            }
            Self::Unreadable => ErrorClass::Bug,
        }
    }
}

/// Reads an answer: a result for each message, in the order of the request.
///
/// # Errors
/// [`AnswerError`].
pub fn results(answer: &[u8]) -> Result<Vec<SendStreamResponse>, AnswerError> {
    let answer = SubmitResponse::decode(answer).map_err(|_| AnswerError::Unreadable)?;
    match answer.result {
        Some(Outcome::Results(SubmitResults { results })) => Ok(results),
        Some(Outcome::Error(error)) => Err(AnswerError::Refused(error)),
        None => Err(AnswerError::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sotto_crypto::hpke::OpeningKey;

    use super::*;

    fn key() -> OpeningKey {
        OpeningKey::from_bytes(std::array::from_fn(|at| u8::try_from(at).unwrap())).unwrap()
    }

    fn jwk(kid: &str) -> String {
        let x = key().public().jwk_x();
        format!(r#"{{"kty":"OKP","crv":"X25519","x":"{x}","kid":"{kid}","use":"enc"}}"#)
    }

    fn intake() -> IntakeKey {
        IntakeKey::from_jwk(&jwk(&key().public().thumbprint())).unwrap()
    }

    fn to() -> Destination {
        Destination { cell: "vn".parse().unwrap(), tenant: "acme".parse().unwrap() }
    }

    fn keyed(n: usize) -> SendStreamRequest {
        SendStreamRequest { reference: n as u64, message: None, idempotency_key: format!("k{n}") }
    }

    #[test]
    fn the_cell_opens_what_was_made_and_finds_all_of_it() {
        let messages: Vec<_> = (0..MAX_SUBMIT_MESSAGES).map(keyed).collect();
        let bytes = request(&intake(), &to(), "a-token", messages.clone()).unwrap();
        let plain = Submission { access_token: "a-token".to_owned(), messages: messages.clone() };
        // Nothing of it is on the wire: neither the token nor any run of its bytes.
        let plain = plain.encode_to_vec();
        assert!(plain.windows(8).all(|run| !bytes.windows(8).any(|other| other == run)));
        let Some(Form::Sealed(sealed)) = SubmitRequest::decode(bytes.as_slice()).unwrap().form else {
            unreachable!("it is sealed")
        };
        assert_eq!(sealed.key_id, key().public().thumbprint());
        let binding = SubmissionBinding { cell: "vn", tenant: "acme" };
        let opened = key().open_submission(&binding, &sealed.encapsulated_key, &sealed.ciphertext).unwrap();
        let submission = Submission::decode(opened.as_slice()).unwrap();
        assert_eq!((submission.access_token.as_str(), submission.messages), ("a-token", messages));
        assert_eq!(subject(&to()), "sotto.v1.vn.client.acme.submit");
    }

    #[test]
    fn what_the_cell_would_refuse_as_a_whole_is_not_made() {
        let make = |messages| request(&intake(), &to(), "a-token", messages);
        assert_eq!(make(vec![]), Err(RequestError::Count));
        assert_eq!(make((0..=MAX_SUBMIT_MESSAGES).map(keyed).collect()), Err(RequestError::Count));
        let unkeyed = SendStreamRequest { idempotency_key: String::new(), ..keyed(1) };
        assert_eq!(make(vec![keyed(0), unkeyed]), Err(RequestError::NoKey(2)));
        let long = SendStreamRequest { idempotency_key: "k".repeat(MAX_SUBMIT_BYTES), ..keyed(1) };
        assert_eq!(make(vec![long]), Err(RequestError::TooLarge));
    }

    #[test]
    fn only_the_key_of_its_id_is_taken() {
        let good = jwk(&key().public().thumbprint());
        for bad in [
            jwk("another"),
            good.replace("X25519", "Ed25519"),
            good.replace("OKP", "EC"),
            good.replace("\"x\"", "\"y\""),
            good.replace(&key().public().jwk_x(), "AAAA"),
            String::new(),
        ] {
            assert_eq!(IntakeKey::from_jwk(&bad), Err(KeyError), "{bad}");
        }
    }

    #[test]
    fn a_refusal_tells_whether_waiting_helps() {
        let refused = |retry_after| {
            let error = SendError { message: "why".to_owned(), retry_after, ..SendError::default() };
            let answer = SubmitResponse { result: Some(Outcome::Error(error)) }.encode_to_vec();
            results(&answer).unwrap_err()
        };
        assert_eq!(refused(None).to_string(), "the request was refused: why");
        assert!(matches!(refused(None).class(), ErrorClass::Reject));
        let after = std::time::Duration::from_secs(2);
        assert!(matches!(
            refused(after.try_into().ok()).class(),
            ErrorClass::Retry { after: told } if told == after
        ));
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(results(&bytes));
        }
    }
}
