//! What people approve together: one act, written so that everybody signs the same bytes.
//!
//! An act names the keys that it destroys, each by a name that is given once and dies once. So an act that was carried out
//! has nothing left to do: it cannot be used a second time.

use std::{fmt, str::FromStr};

use crate::{CellId, Timestamp};

/// The first line of an act's text.
const HEAD: &str = "sotto approval v1";

/// The most keys of one act.
pub const MOST_BUCKETS: usize = 256;

/// The destruction of keys, to be approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    id: [u8; 8],
    cell: CellId,
    expires_at: Timestamp,
    buckets: Vec<String>,
}

/// Text that is no act, or an act that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActError {
    /// It is not what [`Act`] writes.
    #[error("it is not an act as sotto writes one")]
    Text,
    /// It names no key, or too many.
    #[error("it must name 1 to {MOST_BUCKETS} keys")]
    Count,
    /// Names are not in ascending order, or one is there twice or is no name.
    #[error("its keys must be in ascending order, each once, of visible characters")]
    Names,
}

impl Act {
    /// An act that destroys these buckets' keys, in any order.
    ///
    /// # Errors
    /// [`ActError`].
    pub fn destroy(
        id: [u8; 8],
        cell: CellId,
        expires_at: Timestamp,
        mut buckets: Vec<String>,
    ) -> Result<Self, ActError> {
        buckets.sort_unstable();
        Self { id, cell, expires_at, buckets }.checked()
    }

    fn checked(self) -> Result<Self, ActError> {
        if self.buckets.is_empty() || self.buckets.len() > MOST_BUCKETS {
            return Err(ActError::Count);
        }
        let is_name = |name: &String| {
            (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let ascending = self.buckets.is_sorted_by(|a, b| a < b);
        if ascending && self.buckets.iter().all(is_name) { Ok(self) } else { Err(ActError::Names) }
    }

    /// Its id, for people and the audit log.
    pub fn id(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The cell that it is for.
    pub const fn cell(&self) -> &CellId {
        &self.cell
    }

    /// It must have been carried out by then.
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// The buckets whose keys it destroys, in ascending order.
    pub fn buckets(&self) -> &[String] {
        &self.buckets
    }
}

/// The bytes that are signed.
impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cell, expires_at, buckets, .. } = self;
        writeln!(f, "{HEAD}\ncell {cell}\nact {}\nexpires {expires_at}", self.id())?;
        buckets.iter().try_for_each(|bucket| writeln!(f, "destroy {bucket}"))
    }
}

impl FromStr for Act {
    type Err = ActError;

    fn from_str(text: &str) -> Result<Self, ActError> {
        let act = read(text).ok_or(ActError::Text)?.checked()?;
        // One spelling: what is signed is what is read.
        if act.to_string() == text { Ok(act) } else { Err(ActError::Text) }
    }
}

fn read(text: &str) -> Option<Act> {
    let mut lines = text.strip_prefix(HEAD)?.strip_prefix('\n')?.lines();
    let cell = lines.next()?.strip_prefix("cell ")?.parse().ok()?;
    let id = lines.next()?.strip_prefix("act ")?;
    let id = u64::from_str_radix(id, 16).ok()?.to_be_bytes();
    let expires_at = lines.next()?.strip_prefix("expires ")?.parse().ok()?;
    // One more than may be, so that too many are told as such and nothing is read without a bound.
    let buckets = lines.take(MOST_BUCKETS + 1).map(|line| Some(line.strip_prefix("destroy ")?.to_owned()));
    Some(Act { id, cell, expires_at, buckets: buckets.collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "sotto approval v1\ncell vn\nact 00000000000000ff\nexpires 2026-11-24T05:00:00.000Z\n\
                        destroy otp/2026-11-24T06\ndestroy transactional/2026-11-28.2\n";

    fn cell() -> CellId {
        "vn".parse().unwrap()
    }

    fn act(buckets: &[&str]) -> Result<Act, ActError> {
        let buckets = buckets.iter().map(|name| (*name).to_owned()).collect();
        Act::destroy(
            [0, 0, 0, 0, 0, 0, 0, 0xff],
            cell(),
            Timestamp::from_unix_seconds(1_795_496_400),
            buckets,
        )
    }

    #[test]
    fn everybody_signs_the_same_bytes_whatever_the_order_of_the_names() {
        let made = act(&["transactional/2026-11-28.2", "otp/2026-11-24T06"]).unwrap();
        assert_eq!(made.to_string(), TEXT);
        assert_eq!(TEXT.parse(), Ok(made));
    }

    #[test]
    fn what_can_not_be_is_refused() {
        assert_eq!(act(&[]), Err(ActError::Count));
        let many: Vec<_> = (0..=MOST_BUCKETS).map(|number| format!("b{number:04}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(act(&many), Err(ActError::Count));
        assert!(act(&many[1..]).is_ok());
        for names in [&["a", "a"][..], &["a b"], &[""], &["a\nb"], &["\u{e9}"], &["a".repeat(65).as_str()]] {
            assert_eq!(act(names), Err(ActError::Names), "{names:?}");
        }
    }

    #[test]
    fn it_has_one_spelling() {
        for wrong in [
            String::new(),
            TEXT.trim_end().to_owned(),
            format!("{TEXT}\n"),
            format!(" {TEXT}"),
            TEXT.replace('\n', "\r\n"),
            TEXT.replace("v1", "v2"),
            TEXT.replace("00000000000000ff", "ff"),
            TEXT.replace("00000000000000ff", "00000000000000FF"),
            TEXT.replace("05:00:00.000Z", "05:00:00Z"),
            TEXT.replace("destroy", "keep"),
            TEXT.replace("cell vn", "cell  vn"),
        ] {
            assert!(wrong.parse::<Act>().is_err(), "{wrong:?}");
        }
        let turned = "sotto approval v1\ncell vn\nact 00000000000000ff\nexpires 2026-11-24T05:00:00.000Z\n\
                      destroy b\ndestroy a\n";
        assert_eq!(turned.parse::<Act>(), Err(ActError::Names));
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(text in "(sotto approval v1\n)?(cell vn\n)?\\PC{0,60}\n(destroy a\n)?") {
            if let Ok(act) = text.parse::<Act>() {
                prop_assert_eq!(act.to_string(), text);
            }
        }

        #[test]
        fn no_two_acts_have_the_same_bytes(
            id in any::<[u8; 8]>(), other in any::<[u8; 8]>(), at in 0_i64..200_000_000_000_000,
        ) {
            let of = |id| {
                let at = Timestamp::from_unix_millis(at);
                Act::destroy(id, cell(), at, vec!["a".to_owned()]).unwrap()
            };
            prop_assert_eq!(of(id).to_string().parse(), Ok(of(id)));
            prop_assert_eq!(of(id).to_string() == of(other).to_string(), id == other);
        }
    }
}
