//! Refusals as clients read them: gRPC status with google.rpc details, or the same content on a stream.

use std::time::Duration;

use sotto_core::{Classified as _, ErrorClass, MessageId};
use sotto_proto::message::v1::{FieldViolation as WireViolation, SendError};
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};

use crate::{
    app::cancel::CancelError,
    domain::token::{PAUSE, TokenError},
    error::Refusal,
    ports::{KeyError, StoreError},
};

const CHALLENGE: &str = "www-authenticate";

fn code(refused: &Refusal) -> Code {
    match refused {
        Refusal::Invalid(_) => Code::InvalidArgument,
        Refusal::KeyReused => Code::AlreadyExists,
        Refusal::TooFast { .. } | Refusal::Overloaded | Refusal::RecipientFull => Code::ResourceExhausted,
        Refusal::Unavailable { .. } | Refusal::InDoubt => Code::Unavailable,
        Refusal::Internal => Code::Internal,
    }
}

fn retry_after(class: ErrorClass) -> Option<Duration> {
    match class {
        ErrorClass::Retry { after } => Some(after),
        ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => None,
    }
}

/// The status of a unary call.
pub(super) fn status(refused: &Refusal) -> Status {
    let mut details = ErrorDetails::new();
    if let Refusal::Invalid(violations) = refused {
        let violations = violations.iter().map(|it| violation(it.field, it.reason, it.description.clone()));
        details.set_bad_request(violations.collect::<Vec<_>>());
    }
    if let Some(after) = retry_after(refused.class()) {
        details.set_retry_info(Some(after));
    }
    if matches!(refused, Refusal::RecipientFull) {
        details.set_error_info("RECIPIENT_LIMIT", "sotto", std::collections::HashMap::new());
    }
    Status::with_error_details(code(refused), refused.to_string(), details)
}

/// The same on a stream, and over the broker.
pub(in crate::adapters) fn error(refused: &Refusal) -> SendError {
    let field_violations = match refused {
        Refusal::Invalid(violations) => violations
            .iter()
            .map(|it| WireViolation {
                field: it.field.to_owned(),
                reason: it.reason.to_owned(),
                description: it.description.clone(),
            })
            .collect(),
        Refusal::KeyReused
        | Refusal::RecipientFull
        | Refusal::TooFast { .. }
        | Refusal::Overloaded
        | Refusal::Unavailable { .. }
        | Refusal::InDoubt
        | Refusal::Internal => Vec::new(),
    };
    let retry_after = retry_after(refused.class()).and_then(|after| after.try_into().ok());
    SendError { code: code(refused).into(), message: refused.to_string(), field_violations, retry_after }
}

/// The stream's token has ended.
pub(super) fn expired() -> Status {
    let message = "the stream's token has expired: open a new stream with a new token";
    Status::with_metadata(Code::Unauthenticated, message, challenged("Bearer error=\"invalid_token\""))
}

/// One field at fault.
pub(super) fn invalid(field: &str, reason: &str, description: String) -> Status {
    let message = description.clone();
    let details = ErrorDetails::with_bad_request(vec![violation(field, reason, description)]);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

fn violation(field: &str, reason: &str, description: String) -> FieldViolation {
    FieldViolation {
        field: field.to_owned(),
        description,
        reason: reason.to_owned(),
        localized_message: None,
    }
}

/// The index cannot be read.
pub(super) fn unsearchable(error: KeyError) -> Status {
    status(&match error {
        KeyError::Unavailable => {
            Refusal::Unavailable { what: "the index of numbers cannot be read now", after: PAUSE }
        }
        KeyError::TooFar { .. } | KeyError::Refused => Refusal::Internal,
    })
}

/// Nothing can be said of a token now.
pub(in crate::adapters) const fn no_keys() -> Refusal {
    Refusal::Unavailable { what: "tokens cannot be checked now", after: PAUSE }
}

/// No token, or one that is not believed (RFC 6750 §3).
pub(super) fn unauthenticated(error: TokenError) -> Status {
    let challenge = match error {
        TokenError::NoKeys => return status(&no_keys()),
        // Without a token there is nothing to say about one.
        TokenError::Missing => "Bearer",
        TokenError::TooLong
        | TokenError::Malformed
        | TokenError::Algorithm
        | TokenError::Type
        | TokenError::Extension
        | TokenError::UnknownKey
        | TokenError::Signature
        | TokenError::Claims
        | TokenError::Issuer
        | TokenError::Audience
        | TokenError::Expired
        | TokenError::NotYet => "Bearer error=\"invalid_token\"",
    };
    Status::with_metadata(Code::Unauthenticated, error.to_string(), challenged(challenge))
}

/// A token of another cell, whose messages go to this endpoint.
pub(super) fn elsewhere(endpoint: &str) -> Status {
    let metadata = [("endpoint".to_owned(), endpoint.to_owned())];
    let details = ErrorDetails::with_error_info("OTHER_CELL", "sotto", metadata);
    let message = format!("the token is of another cell: send to {endpoint}");
    let metadata = challenged("Bearer error=\"invalid_token\"");
    Status::with_error_details_and_metadata(Code::Unauthenticated, message, details, metadata)
}

/// A token without the scope that is needed.
pub(super) fn insufficient_scope(scope: &'static str) -> Status {
    let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
    let message = format!("the token lacks the scope {scope}");
    Status::with_metadata(Code::PermissionDenied, message, challenged(&challenge))
}

fn challenged(challenge: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    if let Ok(value) = challenge.parse() {
        metadata.insert(CHALLENGE, value);
    }
    metadata
}

/// An accepted message whose state is not there yet: never "not found".
pub(super) fn not_yet() -> Status {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(1)));
    Status::with_error_details(Code::Unavailable, "the message is not visible yet: try again", details)
}

/// The state of messages cannot be read now.
pub(super) fn unreadable(error: StoreError) -> Status {
    match error.class() {
        ErrorClass::Retry { after } => {
            let details = ErrorDetails::with_retry_info(Some(after));
            let message = "the state of messages cannot be read now: try again";
            Status::with_error_details(Code::Unavailable, message, details)
        }
        ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
            Status::internal("the state of messages cannot be read because of a fault of this service")
        }
    }
}

/// A message that is not known to be cancelled.
pub(super) fn not_cancelled(id: &MessageId, error: CancelError) -> Status {
    let because = |reason: &str| {
        let violation = PreconditionViolation::new(reason, id.to_string(), error.to_string());
        let details = ErrorDetails::with_precondition_failure(vec![violation]);
        Status::with_error_details(Code::FailedPrecondition, error.to_string(), details)
    };
    match error {
        CancelError::Unknown => Status::not_found(error.to_string()),
        CancelError::NotYet => not_yet(),
        CancelError::Submitted => because("MESSAGE_SUBMITTED"),
        CancelError::Doubted => because("MESSAGE_IN_DOUBT"),
        CancelError::Ended(_) => because("MESSAGE_ENDED"),
        CancelError::Store(_) | CancelError::Log(_) => match error.class() {
            ErrorClass::Retry { after } => {
                let details = ErrorDetails::with_retry_info(Some(after));
                Status::with_error_details(Code::Unavailable, error.to_string(), details)
            }
            ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
                Status::internal("the message cannot be cancelled because of a fault of this service")
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_cannot_be_checked_is_not_called_wrong() {
        let later = unauthenticated(TokenError::NoKeys);
        assert_eq!(later.code(), Code::Unavailable);
        assert!(later.get_details_retry_info().is_some());
        assert_eq!(unauthenticated(TokenError::UnknownKey).code(), Code::Unauthenticated);
    }
}
