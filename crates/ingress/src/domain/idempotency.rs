//! The same key gives the same message: ids and content tags made from idempotency keys (MSG-4).
//!
//! An id is a keyed hash of tenant, key and the window in which the request came, so a retry finds itself even when
//! everything but the log is lost. A retry may come in the next window, or after the hashing key was rotated: ids of
//! the previous window and of the ring's other keys are tried too: a replica that opened the keystore after a rotation uses
//! the key that is still the next one here.

use std::time::Duration;

use sotto_core::{Facts, MessageId, Sensitive, TenantId, Timestamp};

use super::request::Checked;

/// The length of a window: a key is honoured for one to two of them.
pub const WINDOW: Duration = Duration::from_secs(24 * 3600);

/// How long after its beginning a window may still be entered late, by a request whose clock was read before it or a
/// process whose clock is behind.
pub const LATE: Duration = Duration::from_secs(600);

const ID: &str = "sotto.idempotency.id.v1";
const CONTENT: &str = "sotto.idempotency.content.v1";

/// The window of a time, counted from the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(i64);

impl Window {
    /// The window in which `now` lies.
    pub fn at(now: Timestamp) -> Self {
        Self(now.unix_millis().div_euclid(length_ms()))
    }

    /// The one before.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The one after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// When it begins.
    pub fn begins(self) -> Timestamp {
        Timestamp::from_unix_millis(self.0.saturating_mul(length_ms()))
    }

    /// Until when a key used in it is remembered: the end of the next window.
    pub fn remembered_until(self) -> Timestamp {
        self.next().next().begins()
    }

    /// Whether a request might still believe to be in the window before this one.
    pub fn is_young(self, now: Timestamp) -> bool {
        now < self.begins().plus(LATE)
    }
}

fn length_ms() -> i64 {
    i64::try_from(WINDOW.as_millis()).unwrap_or(i64::MAX)
}

/// Tags fields under a label with one key of the keystore.
pub trait Tagger {
    /// Why it could not.
    type Error;
    /// The tag.
    fn tag(&self, label: &str, fields: &[&[u8]]) -> Result<[u8; 32], Self::Error>;
}

/// The id of a tenant's key in a window.
pub fn message_id<T: Tagger>(
    tagger: &T,
    tenant: &TenantId,
    key: &Sensitive<String>,
    window: Window,
) -> Result<MessageId, T::Error> {
    let fields: [&[u8]; 3] = [tenant.as_str().as_bytes(), key.expose().as_bytes(), &window.0.to_be_bytes()];
    let mut hash = [0; 16];
    for (to, from) in hash.iter_mut().zip(tagger.tag(ID, &fields)?) {
        *to = from;
    }
    Ok(MessageId::from_keyed_hash(hash))
}

/// The tag of all that must be the same for a request to be a repeat.
pub fn content_tag<T: Tagger>(tagger: &T, request: &Checked) -> Result<[u8; 32], T::Error> {
    let (class, validity) = request.wish;
    let validity = u64::try_from(validity.as_millis()).unwrap_or(u64::MAX).to_be_bytes();
    let mut fields = vec![
        request.to.digits().as_bytes(),
        request.from.expose().as_bytes(),
        request.text.expose().as_bytes(),
        class.name().as_bytes(),
        &validity,
    ];
    let send_at = request.send_at.map(|at| at.unix_millis().to_be_bytes());
    // Where there is none the tag is the one of releases that knew none.
    fields.extend(send_at.as_ref().map(<[u8; 8]>::as_slice));
    tagger.tag(CONTENT, &fields)
}

/// What is remembered of a key's use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whether the broker stored the message.
    pub stored: bool,
    /// The tag of its content.
    pub content: [u8; 32],
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// Whose message it is.
    pub tenant: TenantId,
}

impl Entry {
    const FIXED: usize = 1 + 32 + 8 + 8;

    /// What is remembered of a stored message; nothing if it had no key.
    pub fn of(facts: &Facts) -> Option<Self> {
        Some(Self {
            stored: true,
            content: facts.content_mac?,
            accepted_at: facts.accepted_at,
            expires_at: facts.expires_at,
            tenant: facts.tenant.clone(),
        })
    }

    /// Until when it is remembered, unless intake knows better: its window may be the next one.
    pub fn remembered_until(&self) -> Timestamp {
        Window::at(self.accepted_at).remembered_until()
    }

    /// As Redis keeps it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::FIXED + self.tenant.as_str().len());
        bytes.push(u8::from(self.stored));
        bytes.extend(self.content);
        bytes.extend(self.accepted_at.unix_millis().to_be_bytes());
        bytes.extend(self.expires_at.unix_millis().to_be_bytes());
        bytes.extend(self.tenant.as_str().as_bytes());
        bytes
    }

    /// Off Redis; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (stored, rest) = bytes.split_first()?;
        let (content, rest) = rest.split_first_chunk::<32>()?;
        let (accepted, rest) = rest.split_first_chunk::<8>()?;
        let (expires, tenant) = rest.split_first_chunk::<8>()?;
        Some(Self {
            stored: match stored {
                0 => false,
                1 => true,
                2.. => return None,
            },
            content: *content,
            accepted_at: Timestamp::from_unix_millis(i64::from_be_bytes(*accepted)),
            expires_at: Timestamp::from_unix_millis(i64::from_be_bytes(*expires)),
            tenant: std::str::from_utf8(tenant).ok()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;
    use sotto_crypto::MacKey;

    use super::*;

    struct Key(MacKey);

    impl Tagger for Key {
        type Error = Infallible;
        fn tag(&self, label: &str, fields: &[&[u8]]) -> Result<[u8; 32], Infallible> {
            Ok(self.0.mac(label, fields))
        }
    }

    fn id(key: u8, tenant: &str, text: &str, window: i64) -> MessageId {
        let key = Key(MacKey::from_bytes([key; 32]));
        let text = Sensitive::new(text.to_owned());
        message_id(&key, &tenant.parse().unwrap(), &text, Window(window)).unwrap()
    }

    #[test]
    fn an_id_depends_on_key_tenant_text_and_window() {
        let one = id(1, "a", "bc", 1);
        assert_eq!(one, id(1, "a", "bc", 1));
        for other in [id(2, "a", "bc", 1), id(1, "ab", "c", 1), id(1, "a", "bd", 1), id(1, "a", "bc", 2)] {
            assert_ne!(one, other);
        }
        assert_eq!(one.made_at(), None);
    }

    proptest! {
        #[test]
        fn a_key_is_remembered_for_at_least_a_window(now in 0_i64..4_000_000_000_000, later in 0_i64..86_400_000) {
            let window = Window::at(Timestamp::from_unix_millis(now));
            let after = Window::at(Timestamp::from_unix_millis(now + later));
            prop_assert!(after == window || after.previous() == window);
            prop_assert!(window.remembered_until() >= Timestamp::from_unix_millis(now + later));
        }

        #[test]
        fn entries_survive_their_bytes(stored: bool, content: [u8; 32], accepted: i64, expires: i64) {
            let entry = Entry {
                stored,
                content,
                accepted_at: Timestamp::from_unix_millis(accepted),
                expires_at: Timestamp::from_unix_millis(expires),
                tenant: "acme".parse().unwrap(),
            };
            prop_assert_eq!(Entry::decode(&entry.encode()), Some(entry));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(entry) = Entry::decode(&bytes) {
                prop_assert_eq!(entry.encode(), bytes);
            }
        }
    }
}
