//! The receipt of a deletion: that the key of a bucket was destroyed, and with it all that hung on it.
//!
//! It reaches the audit log as one act, whose object holds what the act's other fields do not; who reads the act puts the
//! receipt together again and checks its signature (docs/formats/deletion-receipt.md).

use std::fmt;

use crate::CellId;

/// The first line of what is signed.
const HEAD: &str = "sotto deletion v1";

/// The action of the act in the audit log.
pub const ACTION: &str = "bucket.destroyed";

/// The action that tells the public key which receipts are signed with from then on.
pub const KEY_ACTION: &str = "receipt_key.current";

/// That the key of a bucket was destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The cell.
    pub cell: CellId,
    /// What was in it, and when it was to die.
    pub bucket: String,
    /// When it was made, unix milliseconds.
    pub made_at_ms: i64,
    /// When it was destroyed, unix seconds.
    pub destroyed_at_s: i64,
    /// No more session keys than this hung on it.
    pub wraps_at_most: u64,
    /// The change of the keystore that destroyed it; a keystore with a lower number is an old copy.
    pub generation: u64,
}

/// Who signed a receipt, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The id of the key.
    pub key_id: String,
    /// Ed25519, base64url without padding.
    pub signature: String,
}

/// The bytes that are signed.
impl fmt::Display for Deletion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cell, bucket, made_at_ms, destroyed_at_s, wraps_at_most, generation } = self;
        writeln!(f, "{HEAD}\ncell {cell}\nbucket {bucket}\nmade {made_at_ms}\ndestroyed {destroyed_at_s}")?;
        writeln!(f, "wraps-at-most {wraps_at_most}\ngeneration {generation}")
    }
}

impl Deletion {
    /// The tenant whose own bucket it was, which is the tenant of its act.
    pub fn owner(&self) -> Option<&str> {
        self.bucket.split_once('@').map(|(_, owner)| owner)
    }

    /// The object of its act in the audit log; without a seal when nobody could sign.
    pub fn object(&self, seal: Option<&Seal>) -> String {
        let Self { bucket, made_at_ms, wraps_at_most, generation, .. } = self;
        let bucket = bucket.split_once('@').map_or(bucket.as_str(), |(bucket, _)| bucket);
        let facts = format!("{bucket},generation={generation},made={made_at_ms},wraps={wraps_at_most}");
        match seal {
            Some(Seal { key_id, signature }) => format!("{facts},key={key_id},sig={signature}"),
            None => facts,
        }
    }

    /// Puts a receipt together from its act in the audit log; none if the object is not one that [`Self::object`] writes.
    pub fn of_act(
        cell: CellId,
        destroyed_at_s: i64,
        tenant: &str,
        object: &str,
    ) -> Option<(Self, Option<Seal>)> {
        let mut fields = object.split(',');
        let bucket = fields.next()?;
        let bucket = if tenant.is_empty() { bucket.to_owned() } else { format!("{bucket}@{tenant}") };
        let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=');
        let generation = field("generation")?.parse().ok()?;
        let made_at_ms = field("made")?.parse().ok()?;
        let wraps_at_most = field("wraps")?.parse().ok()?;
        let key_id = field("key").map(str::to_owned);
        let signature = field("sig").map(str::to_owned);
        let seal = key_id.zip(signature).map(|(key_id, signature)| Seal { key_id, signature });
        let deletion = Self { cell, bucket, made_at_ms, destroyed_at_s, wraps_at_most, generation };
        // One spelling: nothing in an act goes unread.
        (deletion.object(seal.as_ref()) == object).then_some((deletion, seal))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deletion() -> Deletion {
        Deletion {
            cell: "vn".parse().unwrap(),
            bucket: "transactional/2026-11-28.999".to_owned(),
            made_at_ms: 1_795_493_815_007,
            destroyed_at_s: 1_795_824_000,
            wraps_at_most: 1 << 32,
            generation: 4_000_000,
        }
    }

    fn seal() -> Seal {
        Seal { key_id: "k".repeat(8), signature: "s".repeat(86) }
    }

    #[test]
    fn what_is_signed_is_put_together_again_from_the_act() {
        let made = deletion();
        let object = made.object(Some(&seal()));
        assert!(object.len() <= 200, "an object in the audit log: {}", object.len());
        let read = Deletion::of_act(made.cell.clone(), made.destroyed_at_s, "", &object);
        assert_eq!(read, Some((made.clone(), Some(seal()))));
        let owned = Deletion { bucket: format!("{}@{}", made.bucket, "a".repeat(35)), ..made.clone() };
        assert_eq!(owned.object(Some(&seal())), object, "the tenant stands beside it in the act");
        let read = Deletion::of_act(made.cell.clone(), made.destroyed_at_s, owned.owner().unwrap(), &object);
        assert_eq!(read, Some((owned, Some(seal()))));
        let unsigned = Deletion::of_act(made.cell.clone(), made.destroyed_at_s, "", &made.object(None));
        assert_eq!(unsigned, Some((made, None)));
        assert_eq!(
            deletion().to_string(),
            "sotto deletion v1\ncell vn\nbucket transactional/2026-11-28.999\nmade 1795493815007\n\
             destroyed 1795824000\nwraps-at-most 4294967296\ngeneration 4000000\n"
        );
    }

    #[test]
    fn another_spelling_is_no_receipt() {
        let good = deletion().object(Some(&seal()));
        for wrong in [
            String::new(),
            "otp/2026-11-24T06,generation=9".to_owned(),
            format!("{good},"),
            format!("{good},more=1"),
            good.replace("generation=", "generation=0"),
            good.replace("made=", "mad="),
            good.replace(",sig=", ",gis="),
            good.replace(",key=kkkkkkkk", ""),
        ] {
            assert_eq!(Deletion::of_act("vn".parse().unwrap(), 0, "", &wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_fact_is_in_what_is_signed(
            made in any::<i64>(), destroyed in any::<i64>(), wraps in any::<u64>(), generation in any::<u64>(),
        ) {
            let one = Deletion {
                made_at_ms: made, destroyed_at_s: destroyed, wraps_at_most: wraps, generation, ..deletion()
            };
            let read = Deletion::of_act(one.cell.clone(), destroyed, "", &one.object(Some(&seal())));
            prop_assert_eq!(read.map(|(read, _)| read.to_string()), Some(one.to_string()));
        }
    }
}
