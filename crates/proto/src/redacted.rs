//! `Debug` of the messages that hold numbers, senders, texts, keys or secrets: it prints only what is not personal.

use std::fmt;

use crate::{
    identity::v1::{CreateClientResponse, RedeemInvitationRequest, RedeemInvitationResponse},
    message::v1::{FindMessagesRequest, OutboundMessage, SendRequest, SendStreamRequest, Submission},
    ops::v1::TestMessage,
    pipeline::v1::{InboundContent, SealedContent},
    privacy::v1::{
        BucketPseudonym, CreateInboundKeyResponse, CreateSessionKeyResponse, UnwrappedKey, unwrapped_key,
    },
};

impl fmt::Debug for OutboundMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundMessage").field("class", &self.class()).finish_non_exhaustive()
    }
}

// Clients make idempotency keys of what they have: often of the number.
impl fmt::Debug for SendRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendRequest").field("message", &self.message).finish_non_exhaustive()
    }
}

impl fmt::Debug for SendStreamRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendStreamRequest")
            .field("reference", &self.reference)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Submission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submission").field("messages", &self.messages).finish_non_exhaustive()
    }
}

impl fmt::Debug for FindMessagesRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FindMessagesRequest([REDACTED])")
    }
}

impl fmt::Debug for BucketPseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketPseudonym").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl fmt::Debug for TestMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestMessage([REDACTED])")
    }
}

impl fmt::Debug for SealedContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedContent([REDACTED])")
    }
}

impl fmt::Debug for InboundContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InboundContent([REDACTED])")
    }
}

impl fmt::Debug for CreateInboundKeyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateInboundKeyResponse")
            .field("wrap", &self.wrap)
            .field("seal_until", &self.seal_until)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CreateSessionKeyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateSessionKeyResponse")
            .field("wrap", &self.wrap)
            .field("seal_until", &self.seal_until)
            .field("dies_at", &self.dies_at)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for UnwrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnwrappedKey").field("key_id", &self.key_id).field("result", &self.result).finish()
    }
}

impl fmt::Debug for unwrapped_key::Result {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(_) => f.write_str("Key([REDACTED])"),
            Self::Refusal(refusal) => write!(f, "Refusal({refusal})"),
            Self::Sealed(place) => write!(f, "Sealed({place})"),
        }
    }
}

impl fmt::Debug for RedeemInvitationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedeemInvitationRequest([REDACTED])")
    }
}

impl fmt::Debug for RedeemInvitationResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedeemInvitationResponse").field("client", &self.client).finish_non_exhaustive()
    }
}

impl fmt::Debug for CreateClientResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateClientResponse").field("client", &self.client).finish_non_exhaustive()
    }
}
