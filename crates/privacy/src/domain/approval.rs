//! Whether an act was approved: by two people, for this cell, and not too long ago.

use std::time::Duration;

use sotto_core::{
    CellId, Timestamp,
    approval::{Act, ActError},
};
use sotto_crypto::sign::PublicKey;

/// People whose word an act needs.
pub const NEEDED: usize = 2;

/// The longest that an act may be left to be carried out, from now.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Somebody whose word counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// What the cell calls them.
    pub name: String,
    /// Verifies their signatures.
    pub key: PublicKey,
}

/// A signature over an act's text.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Whose it is said to be.
    pub by: String,
    /// Ed25519.
    pub signature: Vec<u8>,
}

/// An act that may be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approved {
    /// It.
    pub act: Act,
    /// Who approved it, in the order of their names.
    pub by: Vec<String>,
}

/// Why an act is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalError {
    /// Nobody could approve anything.
    #[error(
        "fewer than {NEEDED} people may approve: name them in privacy's [[approval.people]] and restart it"
    )]
    Nobody,
    /// It does not parse.
    #[error("the act cannot be read: {0}")]
    Act(#[source] ActError),
    /// It is for another cell.
    #[error("the act is for another cell: propose it anew here")]
    Cell,
    /// It is over.
    #[error("the act expired at {at}: propose it anew")]
    Expired {
        /// When.
        at: Timestamp,
    },
    /// It is good for too long.
    #[error("the act expires more than {} h from now: propose it anew", LONGEST.as_secs() / 3600)]
    TooLong,
    /// Somebody signed whom nobody knows.
    #[error("one signature is of nobody in privacy's [[approval.people]]")]
    Stranger,
    /// A signature does not verify.
    #[error("the signature of {by} does not fit the act and the key in privacy's [[approval.people]]")]
    Signature {
        /// Whose it is said to be.
        by: String,
    },
    /// Too few signed.
    #[error("{found} of {NEEDED} people signed: have another one sign it with sotto keys approve")]
    TooFew {
        /// How many did.
        found: usize,
    },
}

/// Judges an act. Each signature must be good: one that is not tells of a mistake or of worse.
///
/// # Errors
/// [`ApprovalError`].
pub fn judge(
    people: &[Person],
    cell: &CellId,
    text: &str,
    signed: &[Signed],
    now: Timestamp,
) -> Result<Approved, ApprovalError> {
    if people.len() < NEEDED {
        return Err(ApprovalError::Nobody);
    }
    let act: Act = text.parse().map_err(ApprovalError::Act)?;
    if act.cell() != cell {
        return Err(ApprovalError::Cell);
    }
    if act.expires_at() <= now {
        return Err(ApprovalError::Expired { at: act.expires_at() });
    }
    if act.expires_at() > now.plus(LONGEST) {
        return Err(ApprovalError::TooLong);
    }
    let mut by = Vec::new();
    for Signed { by: name, signature } in signed {
        let person = people.iter().find(|person| person.name == *name).ok_or(ApprovalError::Stranger)?;
        let verified = person.key.verify(text.as_bytes(), signature);
        verified.map_err(|_| ApprovalError::Signature { by: person.name.clone() })?;
        by.push(person.name.clone());
    }
    by.sort_unstable();
    by.dedup();
    if by.len() < NEEDED { Err(ApprovalError::TooFew { found: by.len() }) } else { Ok(Approved { act, by }) }
}

#[cfg(test)]
mod tests {
    use sotto_crypto::sign::SigningKey;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_795_493_815_007);

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32]).unwrap()
    }

    fn people() -> Vec<Person> {
        let person = |name: &str, seed| Person { name: name.to_owned(), key: key(seed).public() };
        vec![person("binh", 1), person("an", 2), person("chi", 3)]
    }

    fn text(expires_at: Timestamp) -> String {
        let buckets = vec!["otp/2026-11-24T06".to_owned()];
        Act::destroy([7; 8], "vn".parse().unwrap(), expires_at, buckets).unwrap().to_string()
    }

    fn signed(by: &str, seed: u8, text: &str) -> Signed {
        Signed { by: by.to_owned(), signature: key(seed).sign(text.as_bytes()).unwrap().to_vec() }
    }

    fn cell(name: &str) -> CellId {
        name.parse().unwrap()
    }

    fn judged(text: &str, signed: &[Signed]) -> Result<Vec<String>, ApprovalError> {
        judge(&people(), &cell("vn"), text, signed, NOW).map(|approved| approved.by)
    }

    #[test]
    fn two_people_are_needed_and_the_same_one_twice_is_one() {
        let text = text(NOW.plus(LONGEST));
        let (an, binh, chi) = (signed("an", 2, &text), signed("binh", 1, &text), signed("chi", 3, &text));
        assert_eq!(judged(&text, &[]), Err(ApprovalError::TooFew { found: 0 }));
        assert_eq!(judged(&text, &[an.clone(), an.clone()]), Err(ApprovalError::TooFew { found: 1 }));
        assert_eq!(judged(&text, &[binh.clone(), an.clone()]), Ok(vec!["an".to_owned(), "binh".to_owned()]));
        assert_eq!(judged(&text, &[binh, an, chi]).map(|by| by.len()), Ok(3));
    }

    #[test]
    fn a_signature_counts_for_its_own_act_and_person_only() {
        let text = text(NOW.plus(LONGEST));
        let an = signed("an", 2, &text);
        let other = text.replace("T06", "T07");
        let wrong = |by: &str| Err(ApprovalError::Signature { by: by.to_owned() });
        assert_eq!(judged(&other, &[an.clone(), signed("binh", 1, &other)]), wrong("an"));
        assert_eq!(judged(&text, &[an.clone(), signed("binh", 2, &text)]), wrong("binh"));
        let short = Signed { by: "binh".to_owned(), signature: vec![0; 63] };
        assert_eq!(judged(&text, &[an.clone(), short]), wrong("binh"));
        assert_eq!(judged(&text, &[an, signed("dung", 4, &text)]), Err(ApprovalError::Stranger));
    }

    #[test]
    fn an_act_is_for_one_cell_and_one_day() {
        let both = |text: &str| [signed("an", 2, text), signed("binh", 1, text)];
        let soon = text(NOW.plus(Duration::from_millis(1)));
        assert!(judged(&soon, &both(&soon)).is_ok());
        for (at, error) in [
            (NOW, ApprovalError::Expired { at: NOW }),
            (NOW.plus(LONGEST + Duration::from_millis(1)), ApprovalError::TooLong),
        ] {
            assert_eq!(judged(&text(at), &both(&text(at))), Err(error));
        }
        let there = judge(&people(), &cell("sg"), &soon, &both(&soon), NOW);
        assert_eq!(there, Err(ApprovalError::Cell));
        assert_eq!(judged("destroy all\n", &[]), Err(ApprovalError::Act(ActError::Text)));
    }

    #[test]
    fn without_people_nothing_is_approved() {
        let text = text(NOW.plus(LONGEST));
        for people in [&people()[..1], &[]] {
            let judged = judge(people, &cell("vn"), &text, &[signed("binh", 1, &text)], NOW);
            assert_eq!(judged, Err(ApprovalError::Nobody));
        }
    }
}
