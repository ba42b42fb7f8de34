//! What a client may ask for: every field checked, every fault told at once, no value repeated.

use std::{fmt, time::Duration};

use sotto_core::{
    Facts, MessageClass, Sensitive, Timestamp,
    number::{E164, NumberError},
    sender::{SenderError, SenderId},
    text::{self, Count, TextError, composed},
};

use super::token::Caller;

/// The shortest validity.
pub const MIN_VALIDITY: Duration = Duration::from_secs(5);

/// The longest idempotency key, in bytes.
pub const MAX_KEY: usize = 128;

/// A request as it came, before any check.
#[derive(Default)]
pub struct Asked {
    /// Whether there was a message at all.
    pub present: bool,
    /// `message.to`
    pub to: Sensitive<String>,
    /// `message.from`
    pub from: Sensitive<String>,
    /// `message.text`
    pub text: Sensitive<String>,
    /// `message.class`, if it is one of the known.
    pub class: Option<MessageClass>,
    /// `message.transliterate`
    pub transliterate: bool,
    /// `message.validity`, seconds and nanoseconds.
    pub validity: Option<(i64, i32)>,
    /// `message.send_at`, seconds and nanoseconds since the epoch.
    pub send_at: Option<(i64, i32)>,
    /// `idempotency_key`, empty for none.
    pub key: Sensitive<String>,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("class", &self.class).finish_non_exhaustive()
    }
}

/// A field at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's path.
    pub field: &'static str,
    /// The rule's stable name.
    pub reason: &'static str,
    /// What is wrong and how to mend it; never the value.
    pub description: String,
}

/// How long messages of a class may be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Without a wish.
    pub default: Duration,
    /// At most.
    pub max: Duration,
}

/// The validity of every class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validities {
    /// Of one-time codes.
    pub otp: Validity,
    /// Of everything else.
    pub other: Validity,
}

impl Validities {
    /// Those of one class.
    pub const fn of(&self, class: MessageClass) -> Validity {
        match class {
            MessageClass::Otp => self.otp,
            MessageClass::Transactional | MessageClass::Promotional | MessageClass::AdInvite => self.other,
        }
    }
}

/// A request that may be accepted.
pub struct Checked {
    /// The recipient.
    pub to: E164,
    /// The sender as the client gave it.
    pub from: Sensitive<String>,
    /// The text in NFC.
    pub text: Sensitive<String>,
    /// Whether it was changed on the client's wish.
    pub transliterated: bool,
    /// How the text will be written.
    pub count: Count,
    /// What it is for.
    pub class: MessageClass,
    /// For how long, from acceptance or from when it is to be sent.
    pub validity: Duration,
    /// Class and validity as they were asked for: a repeat is known by these, whatever a release makes of them.
    pub wish: (MessageClass, Duration),
    /// When it is to be sent; none: at once.
    pub send_at: Option<Timestamp>,
    /// The idempotency key.
    pub key: Option<Sensitive<String>>,
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked")
            .field("class", &self.class)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Checked {
    /// When its validity begins: a time to send at that is over means now.
    pub fn begins(&self, now: Timestamp) -> Timestamp {
        self.send_at.map_or(now, |at| at.max(now))
    }
}

/// Checks a request of this caller.
pub fn check(
    asked: Asked,
    caller: &Caller,
    validities: &Validities,
    now: Timestamp,
) -> Result<Checked, Vec<Violation>> {
    let mut violations = Vec::new();
    if !asked.present {
        let description = "the message is missing".to_owned();
        violations.push(Violation { field: "message", reason: "MESSAGE_MISSING", description });
        return Err(violations);
    }
    let Asked { to, from, text, transliterate, class, validity, send_at, key, present: _ } = asked;
    let plain = if transliterate { text::transliterate(text.expose()) } else { None };
    let (text, transliterated) = plain.map_or((text, false), |plain| (plain, true));
    let to = keep(&mut violations, number(to.expose()));
    let sender = keep(&mut violations, sender(from.expose(), caller));
    let count = keep(&mut violations, count(text.expose()));
    let class = keep(&mut violations, known(class));
    // The bounds of another class would mislead: without a class the validity is judged by the widest.
    let unspecified = validity.is_none();
    let bounds = class.map_or(validities.other, |class| validities.of(class));
    let validity = keep(&mut violations, within(validity, bounds));
    let send_at = keep(&mut violations, at(send_at, class, now));
    let key = keep(&mut violations, idempotency_key(key));
    match (to, sender, count, class, validity, send_at, key) {
        (Some(to), Some(()), Some(count), Some(class), Some(validity), Some(send_at), Some(key)) => {
            let text = normal(&text);
            let wish = (class, validity);
            let (class, validity) = if is_mislabelled(class, send_at, &text) {
                let Validity { default, max } = validities.otp;
                (MessageClass::Otp, if unspecified { default } else { validity.min(max) })
            } else {
                wish
            };
            Ok(Checked { to, from, text, transliterated, count, class, validity, wish, send_at, key })
        }
        (_, _, _, _, _, _, _) => Err(violations),
    }
}

/// Whether a service notice carries a one-time code: it is taken as one, so that it is kept no longer than one. What is to be
/// sent later is none, and advertisements have codes of their own.
fn is_mislabelled(class: MessageClass, send_at: Option<Timestamp>, text: &Sensitive<String>) -> bool {
    match class {
        MessageClass::Transactional => send_at.is_none() && text::carries_code(text.expose()),
        MessageClass::Otp | MessageClass::Promotional | MessageClass::AdInvite => false,
    }
}

/// The violation for a validity that retention does not cover; `max` is the longest that it does.
pub fn validity_too_long(max: Duration) -> Violation {
    let description = format!(
        "retention does not cover so long a validity: at most {} seconds for this class",
        max.as_secs()
    );
    Violation { field: "message.validity", reason: "VALIDITY_TOO_LONG", description }
}

/// The violation for a message without an idempotency key on a way where each needs one.
pub fn key_missing() -> Violation {
    let description =
        "over NATS each message needs an idempotency key: a captured request may come again".to_owned();
    Violation { field: "idempotency_key", reason: "IDEMPOTENCY_KEY_MISSING", description }
}

fn keep<T>(violations: &mut Vec<Violation>, checked: Result<T, Violation>) -> Option<T> {
    checked.map_err(|violation| violations.push(violation)).ok()
}

/// One allocation of the final size, so that no part of the text stays behind in a smaller one.
fn normal(text: &Sensitive<String>) -> Sensitive<String> {
    let bytes: usize = composed(text.expose()).map(char::len_utf8).sum();
    let mut normal = String::with_capacity(bytes);
    normal.extend(composed(text.expose()));
    Sensitive::new(normal)
}

fn number(to: &str) -> Result<E164, Violation> {
    E164::parse(to).map_err(|error| Violation {
        field: "message.to",
        reason: number_reason(error),
        description: error.to_string(),
    })
}

/// Why a number is refused, for programs.
pub(crate) const fn number_reason(error: NumberError) -> &'static str {
    match error {
        NumberError::Empty => "NUMBER_EMPTY",
        NumberError::NotInternational => "NUMBER_NOT_INTERNATIONAL",
        NumberError::NotDigits => "NUMBER_NOT_DIGITS",
        NumberError::Length => "NUMBER_LENGTH",
        NumberError::UnknownCountryCode => "NUMBER_UNKNOWN_COUNTRY_CODE",
        NumberError::NationalPrefix => "NUMBER_NATIONAL_PREFIX",
        NumberError::OldVietnamese { .. } => "NUMBER_RENUMBERED",
        NumberError::NotInPlan => "NUMBER_NOT_IN_PLAN",
        NumberError::NotMobile => "NUMBER_NOT_MOBILE",
        NumberError::NoCountry => "NUMBER_NO_COUNTRY",
    }
}

fn sender(from: &str, caller: &Caller) -> Result<(), Violation> {
    let violation = |reason, description| Violation { field: "message.from", reason, description };
    let sender = SenderId::parse(from).map_err(|error| {
        let reason = match error {
            SenderError::Empty => "SENDER_EMPTY",
            SenderError::TooLong => "SENDER_TOO_LONG",
            SenderError::Character => "SENDER_CHARACTER",
            SenderError::NoLetter => "SENDER_NO_LETTER",
            SenderError::Spaces => "SENDER_SPACES",
            SenderError::Digits => "SENDER_DIGITS",
        };
        violation(reason, error.to_string())
    })?;
    if caller.owns(&sender) {
        return Ok(());
    }
    let description = "the sender is not registered for this client: have it registered, or use one that is";
    Err(violation("SENDER_UNKNOWN", description.to_owned()))
}

fn count(text: &str) -> Result<Count, Violation> {
    text::count(text).map_err(|error| Violation {
        field: "message.text",
        reason: match error {
            TextError::Empty => "TEXT_EMPTY",
            TextError::TooManyParts { .. } => "TEXT_TOO_LONG",
            TextError::Control { .. } => "TEXT_CONTROL_CHARACTER",
            TextError::Invisible { .. } => "TEXT_INVISIBLE_CHARACTER",
        },
        description: error.to_string(),
    })
}

fn known(class: Option<MessageClass>) -> Result<MessageClass, Violation> {
    let description = "say what the message is for: otp, transactional, promotional or ad invite";
    class.ok_or_else(|| Violation {
        field: "message.class",
        reason: "CLASS_UNKNOWN",
        description: description.to_owned(),
    })
}

fn within(validity: Option<(i64, i32)>, bounds: Validity) -> Result<Duration, Violation> {
    let Some((seconds, nanos)) = validity else { return Ok(bounds.default) };
    let violation = |reason, description| Violation { field: "message.validity", reason, description };
    let too_short = || {
        violation(
            "VALIDITY_TOO_SHORT",
            format!("the validity must be at least {} seconds", MIN_VALIDITY.as_secs()),
        )
    };
    let (Ok(seconds), Ok(nanos @ 0..=999_999_999)) = (u64::try_from(seconds), u32::try_from(nanos)) else {
        return Err(too_short());
    };
    // Whole milliseconds: that is what travels.
    let validity = Duration::new(seconds, nanos / 1_000_000 * 1_000_000);
    if validity < MIN_VALIDITY {
        Err(too_short())
    } else if validity > bounds.max {
        Err(validity_too_long(bounds.max))
    } else {
        Ok(validity)
    }
}

/// Whole milliseconds: that is what travels.
fn at(
    send_at: Option<(i64, i32)>,
    class: Option<MessageClass>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Violation> {
    let Some((seconds, nanos)) = send_at else { return Ok(None) };
    let violation = |reason, description: String| Violation { field: "message.send_at", reason, description };
    if class == Some(MessageClass::Otp) {
        let description = "a one-time code is kept for minutes and cannot be sent later: leave the time out";
        return Err(violation("SEND_AT_OF_CODE", description.to_owned()));
    }
    let millis = (0..1_000_000_000).contains(&nanos).then(|| seconds.checked_mul(1_000)).flatten();
    let millis = millis.filter(|millis| *millis > 0).map(|millis| millis + i64::from(nanos / 1_000_000));
    let at = millis.map(Timestamp::from_unix_millis);
    at.filter(|at| *at <= now.plus(Facts::MAX_AHEAD)).map(Some).ok_or_else(|| {
        let days = Facts::MAX_AHEAD.as_secs() / 86_400;
        violation("SEND_AT_TOO_FAR", format!("give a time at most {days} days ahead"))
    })
}

fn idempotency_key(key: Sensitive<String>) -> Result<Option<Sensitive<String>>, Violation> {
    if key.expose().is_empty() {
        return Ok(None);
    }
    let ok = key.expose().len() <= MAX_KEY && key.expose().bytes().all(|b| (b' '..=b'~').contains(&b));
    if ok {
        return Ok(Some(key));
    }
    let description = format!("an idempotency key has 1 to {MAX_KEY} printable ASCII characters");
    Err(Violation { field: "idempotency_key", reason: "IDEMPOTENCY_KEY_INVALID", description })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
