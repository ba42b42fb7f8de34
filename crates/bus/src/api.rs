//! The broker's JSON API: requests and their errors.

use std::time::Duration;

use async_nats::{Message, Request, client::RequestErrorKind};
use serde::Deserialize;
use serde_json::Value;
use sotto_core::{Classified, ErrorClass};

use crate::Bus;

/// Consumer not found.
const CONSUMER_NOT_FOUND: u64 = 10_014;
/// Stream not found.
const STREAM_NOT_FOUND: u64 = 10_059;
/// How long a request waits for its answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why a request to the broker failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer in time: the broker is away, or the permission is missing.
    #[error("no answer from the broker on {subject}")]
    NoAnswer {
        /// The request's subject.
        subject: String,
    },
    /// The user lacks the permission.
    #[error("the broker's permissions refuse {subject} to this service")]
    NotAllowed {
        /// The request's subject.
        subject: String,
    },
    /// The broker refused.
    #[error("the broker refused: {description} (code {code})")]
    Refused {
        /// The broker's error code.
        code: u64,
        /// Its words.
        description: String,
    },
    /// The answer cannot be read.
    #[error("the broker's answer on {subject} cannot be read")]
    Unreadable {
        /// The request's subject.
        subject: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Whether a refusal means that a cluster elects: not all answered, not enough brokers yet, nobody decides, another one does,
/// the stream is away.
const fn is_electing(code: u64) -> bool {
    matches!(code, 10_004 | 10_005 | 10_008 | 10_009 | 10_118)
}

impl ApiError {
    /// Whether the thing asked for does not exist.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: CONSUMER_NOT_FOUND | STREAM_NOT_FOUND, .. })
    }

    /// Whether the permission is missing.
    pub(crate) const fn is_not_allowed(&self) -> bool {
        matches!(self, Self::NotAllowed { .. })
    }

    /// Whether the broker has no room for a stream: not enough storage left, or not enough resources.
    pub(crate) const fn is_no_room(&self) -> bool {
        matches!(self, Self::Refused { code: 10_047 | 10_023, .. })
    }

    /// Whether nobody is there who decides.
    pub(crate) const fn is_nobody_decides(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => true,
            Self::Refused { code, .. } => is_electing(*code),
            Self::NotAllowed { .. } | Self::Unreadable { .. } => false,
        }
    }
}

impl Classified for ApiError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NoAnswer { .. } => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::Refused { code, .. } if is_electing(*code) => {
                ErrorClass::Retry { after: Duration::from_secs(1) }
            }
            Self::NotAllowed { .. } | Self::Refused { .. } => ErrorClass::Reject,
            Self::Unreadable { .. } => ErrorClass::Bug,
        }
    }
}

/// The part every refusal has in common (ADR-1).
#[derive(Debug, Deserialize)]
pub(crate) struct ApiRefusal {
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

impl Bus {
    /// Sends a request to `$JS.API.<api>`; its answer as it came.
    pub(crate) async fn api_message(&self, api: &str, request: &Value) -> Result<Message, ApiError> {
        let subject = format!("$JS.API.{api}");
        let payload = if request.as_object().is_some_and(|map| map.is_empty()) {
            Vec::new()
        } else {
            request.to_string().into_bytes()
        };
        let request = Request::new().payload(payload.into()).timeout(Some(TIMEOUT));
        let answer = tokio::select! {
            answer = self.client().send_request(subject.clone(), request) => answer,
            () = self.connection().refused(&subject) => return Err(ApiError::NotAllowed { subject }),
        };
        answer.map_err(|error| match error.kind() {
            RequestErrorKind::TimedOut
            | RequestErrorKind::NoResponders
            | RequestErrorKind::InvalidSubject
            | RequestErrorKind::MaxPayloadExceeded
            | RequestErrorKind::Other => ApiError::NoAnswer { subject: subject.clone() },
        })
    }

    /// Sends a request to `$JS.API.<api>`.
    pub(crate) async fn api(&self, api: &str, request: &Value) -> Result<Value, ApiError> {
        let subject = format!("$JS.API.{api}");
        let message = self.api_message(api, request).await?;
        let mut value: Value = serde_json::from_slice(&message.payload)
            .map_err(|source| ApiError::Unreadable { subject: subject.clone(), source })?;
        match value.get_mut("error").map(Value::take) {
            None => Ok(value),
            Some(error) => {
                let refusal: ApiRefusal = serde_json::from_value(error)
                    .map_err(|source| ApiError::Unreadable { subject, source })?;
                Err(ApiError::Refused { code: refusal.err_code, description: refusal.description })
            }
        }
    }
}
