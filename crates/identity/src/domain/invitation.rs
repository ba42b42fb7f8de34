//! The owner's invitation: redeemed once, within its time.

use sotto_core::{Sensitive, Timestamp};
use sotto_crypto::{compare, hash::sha256};

/// The longest text that is looked at (bytes).
pub const MAX_LEN: usize = 256;

/// What is kept of an invitation. Its text has 256 random bits, so that its plain digest can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// SHA-256 of the text.
    pub hash: [u8; 32],
    /// Not valid from then on.
    pub expires_at: Timestamp,
}

/// Why an invitation is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvitationRefused {
    /// There is none, or another.
    #[error("the invitation is not valid")]
    Wrong,
    /// Its time is over.
    #[error("the invitation has expired")]
    Expired,
}

impl Invitation {
    /// Whether `text` is the invitation's, in time.
    ///
    /// # Errors
    /// Why not. Only who has the right text learns that it has expired.
    pub fn check(&self, text: &Sensitive<String>, now: Timestamp) -> Result<(), InvitationRefused> {
        let text = text.expose();
        if text.len() > MAX_LEN || !compare::equal(&sha256(text.as_bytes()), &self.hash) {
            return Err(InvitationRefused::Wrong);
        }
        if now >= self.expires_at {
            return Err(InvitationRefused::Expired);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_and_only_in_time() {
        let end = Timestamp::from_unix_seconds(1_795_000_000);
        let invitation = Invitation { hash: sha256(b"come in"), expires_at: end };
        let check = |text: &str, now| invitation.check(&Sensitive::new(text.to_owned()), now);
        let before = Timestamp::from_unix_seconds(1_794_999_999);
        assert_eq!(check("come in", before), Ok(()));
        assert_eq!(check("come in", end), Err(InvitationRefused::Expired));
        for wrong in ["", "come in ", &"x".repeat(MAX_LEN + 1)] {
            assert_eq!(check(wrong, before), Err(InvitationRefused::Wrong));
            assert_eq!(check(wrong, end), Err(InvitationRefused::Wrong));
        }
    }
}
