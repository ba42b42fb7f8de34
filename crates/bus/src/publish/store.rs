//! One message to the broker until it is acknowledged, refused or the deadline passes.

use std::time::Duration;

use async_nats::{HeaderMap, Request, client::RequestErrorKind};
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::{self, Instant};

use super::{PublishError, Stored};
use crate::{Bus, api::ApiRefusal, trace};

/// Headers of our messages.
pub(crate) mod headers {
    /// The publish id by which the broker knows a repeat.
    pub(crate) const MESSAGE_ID: &str = "Nats-Msg-Id";
    /// Items in the batch.
    pub(crate) const ITEMS: &str = "Sotto-Items";
    /// Not to be handled before this time, milliseconds since the Unix epoch.
    pub(crate) const NOT_BEFORE: &str = "Sotto-Not-Before";
    /// Store only if the last message of the subject has this sequence; 0: if there is none.
    pub(crate) const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
    /// The one item of a batch that crashed its handler and was taken apart.
    pub(crate) const ISOLATED: &str = "Sotto-Isolated";
}

/// Codes that mean "no room": insufficient resources, storage exceeded, resource limits of the account.
const NO_ROOM: [u64; 3] = [10_002, 10_023, 10_047];
/// "Stream store failed": its words say whether a limit was reached.
const STORE_FAILED: u64 = 10_077;
/// Message size exceeds the stream's maximum.
const TOO_LARGE: u64 = 10_054;

/// A message ready to be sent, always with the same bytes.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
    pub(crate) headers: HeaderMap,
}

impl Outgoing {
    pub(crate) fn new(bus: &Bus, subject: &str, payload: Bytes, items: usize, trace: Option<&str>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(headers::MESSAGE_ID, bus.next_publish_id().as_str());
        headers.insert(headers::ITEMS, items.to_string().as_str());
        trace::inject(&mut headers, trace);
        Self { subject: subject.to_owned(), payload, headers }
    }
}

/// The broker's acknowledgement or refusal.
#[derive(Deserialize)]
struct Acknowledgement {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    error: Option<ApiRefusal>,
}

/// What one attempt showed.
enum Attempt {
    Stored(Stored),
    Failed(PublishError),
    /// Certainly not stored; may be tried again.
    NotStored,
    /// No answer: may be stored.
    NoAnswer,
}

impl Bus {
    /// Stores one message: repeats with identical bytes and id until acknowledged or until `end`.
    pub(crate) async fn store(
        &self,
        outgoing: &Outgoing,
        attempt: Duration,
        end: Instant,
    ) -> Result<Stored, PublishError> {
        let mut in_doubt = false;
        let mut pause = Duration::from_millis(20);
        loop {
            // What is sent while disconnected would only wait in the client and come late.
            if time::timeout_at(end, self.connected()).await.is_err() {
                break;
            }
            let attempt =
                self.attempt(outgoing, attempt.min(end.saturating_duration_since(Instant::now()))).await;
            match attempt {
                Attempt::Stored(_) | Attempt::Failed(_) => self.connection().stored(),
                Attempt::NotStored | Attempt::NoAnswer => self.connection().not_stored(),
            }
            match attempt {
                Attempt::Stored(stored) => return Ok(stored),
                Attempt::Failed(error) => return Err(refused(error, in_doubt, &outgoing.subject)),
                Attempt::NotStored => {}
                Attempt::NoAnswer => in_doubt = true,
            }
            if Instant::now() + pause >= end {
                break;
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        let subject = outgoing.subject.clone();
        Err(if in_doubt {
            PublishError::OutcomeUnknown { subject }
        } else {
            PublishError::Unavailable { subject }
        })
    }

    async fn attempt(&self, outgoing: &Outgoing, patience: Duration) -> Attempt {
        let subject = &outgoing.subject;
        let request = Request::new()
            .payload(outgoing.payload.clone())
            .headers(outgoing.headers.clone())
            .timeout(Some(patience));
        let refused = self.connection().refused(subject);
        let mut state = self.state();
        let generation = state.borrow_and_update().generation;
        let answer = tokio::select! {
            answer = time::timeout(patience, self.client().send_request(subject.clone(), request)) => answer,
            () = refused => return Attempt::Failed(PublishError::NotAllowed { subject: subject.clone() }),
            // The answer to what was sent on a lost connection never comes: try again at once on the new one.
            _ = state.wait_for(|state| state.generation != generation) => return Attempt::NoAnswer,
        };
        match answer {
            Ok(Ok(message)) => read(subject, &message.payload, outgoing.payload.len()),
            Ok(Err(error)) => match error.kind() {
                RequestErrorKind::NoResponders => Attempt::NotStored,
                RequestErrorKind::TimedOut | RequestErrorKind::Other => Attempt::NoAnswer,
                RequestErrorKind::MaxPayloadExceeded => Attempt::Failed(too_large(outgoing.payload.len())),
                RequestErrorKind::InvalidSubject => Attempt::Failed(PublishError::Refused {
                    subject: subject.clone(),
                    code: 0,
                    description: "not a subject".to_owned(),
                }),
            },
            Err(_elapsed) => Attempt::NoAnswer,
        }
    }
}

fn too_large(size: usize) -> PublishError {
    PublishError::TooLarge { items: 1, size, limit: crate::topology::MAX_PAYLOAD }
}

fn read(subject: &str, payload: &[u8], sent: usize) -> Attempt {
    let Ok(answer) = serde_json::from_slice::<Acknowledgement>(payload) else {
        return Attempt::NoAnswer;
    };
    let Some(ApiRefusal { err_code: code, description }) = answer.error else {
        return Attempt::Stored(Stored { stream_sequence: answer.seq });
    };
    let subject = subject.to_owned();
    let limit_reached = code == STORE_FAILED && description.contains("maximum");
    if limit_reached || NO_ROOM.contains(&code) {
        Attempt::Failed(PublishError::Full { subject, description })
    } else if code == TOO_LARGE {
        Attempt::Failed(too_large(sent))
    } else if is_passing(code) {
        tracing::warn!(subject, code, description, "the broker cannot store now");
        Attempt::NotStored
    } else {
        Attempt::Failed(PublishError::Refused { subject, code, description })
    }
}

/// What a refusal means. It speaks of its own attempt only: an earlier one without an answer may be stored all the same.
fn refused(error: PublishError, in_doubt: bool, subject: &str) -> PublishError {
    if !in_doubt {
        return error;
    }
    tracing::warn!(%error, "refused after an attempt without an answer");
    PublishError::OutcomeUnknown { subject: subject.to_owned() }
}

/// Leader changes and the like: cluster not available, no quorum, not the leader, store failed, raft.
fn is_passing(code: u64) -> bool {
    matches!(code, 10_004 | 10_007 | 10_008 | 10_009 | 10_041 | STORE_FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_after_doubt_is_doubt() {
        let full = || PublishError::Full { subject: "s".to_owned(), description: "d".to_owned() };
        assert_eq!(refused(full(), false, "s"), full());
        assert!(refused(full(), true, "s").is_in_doubt());
    }

    fn kind(json: &str) -> Attempt {
        read("s", json.as_bytes(), 10)
    }

    #[test]
    fn answers_are_told_apart() {
        assert!(matches!(
            kind(r#"{"stream":"VN_EVENTS","seq":7,"duplicate":true}"#),
            Attempt::Stored(Stored { stream_sequence: 7 })
        ));
        for full in [
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages per subject exceeded"}}"#,
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}"#,
            r#"{"error":{"code":503,"err_code":10023,"description":"insufficient resources"}}"#,
        ] {
            assert!(matches!(kind(full), Attempt::Failed(PublishError::Full { .. })), "{full}");
        }
        for passing in [
            r#"{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}"#,
            r#"{"error":{"code":503,"err_code":10077,"description":"disk I/O"}}"#,
        ] {
            assert!(matches!(kind(passing), Attempt::NotStored), "{passing}");
        }
        assert!(matches!(kind("not json"), Attempt::NoAnswer));
        assert!(matches!(
            kind(r#"{"error":{"code":400,"err_code":10060,"description":"expected stream does not match"}}"#),
            Attempt::Failed(PublishError::Refused { code: 10_060, .. })
        ));
    }
}
