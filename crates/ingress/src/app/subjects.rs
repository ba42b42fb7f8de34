//! From a number to its messages, for the person whose number it is. There is no way back.

use std::sync::Arc;

use sotto_core::number::E164;

use crate::{
    domain::{pseudonym::pseudonym, token::Caller},
    ports::{FoundPart, KeyError, Subjects},
};

/// Finds messages by numbers.
#[derive(Clone, Debug)]
pub struct Finder(Arc<dyn Subjects>);

impl Finder {
    /// Finds them in this index.
    pub fn new(subjects: Arc<dyn Subjects>) -> Self {
        Self(subjects)
    }

    /// Messages of the caller's tenant that this number got, from a place of the index on (0: the beginning). Every key that
    /// lives is tried: what was indexed before a rotation is found as what came after it.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`], [`KeyError::Refused`].
    pub async fn find(&self, caller: &Caller, number: &E164, from: u64) -> Result<FoundPart, KeyError> {
        let keys = self.0.pseudonym_keys(&caller.tenant).await?;
        let pseudonyms = keys.into_iter().map(|key| (key.bucket, pseudonym(&key.key, number))).collect();
        self.0.find(&caller.tenant, &caller.client, pseudonyms, from).await
    }
}
