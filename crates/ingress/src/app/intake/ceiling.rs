//! How many one-time codes a number gets in a day, from whomever.

use std::sync::Arc;

use sotto_core::{MessageClass, MessageId};

use super::Intake;
use crate::{
    domain::request::Checked,
    error::Refusal,
    ports::{Counted, Recipients},
};

/// How many one-time codes a number gets in a day.
#[derive(Clone, Debug)]
pub struct Ceiling {
    /// Who counts.
    pub recipients: Arc<dyn Recipients>,
    /// Whether those above it are refused, or only counted.
    pub refuses: bool,
}

impl Intake {
    /// Counts a one-time code, and refuses it if its number has got too many. What is asked for again is counted once, and what
    /// is refused not at all.
    pub(super) async fn within_ceiling(&self, request: &Checked, id: &MessageId) -> Result<(), Refusal> {
        let Some(ceiling) = self.0.deps.ceiling.as_ref().filter(|_| request.class == MessageClass::Otp)
        else {
            return Ok(());
        };
        let counted = ceiling.recipients.count(&request.to, id).await;
        self.0.deps.metrics.recipients.of(counted.into()).one();
        match counted {
            Counted::Above if ceiling.refuses => Err(Refusal::RecipientFull),
            Counted::Above | Counted::Within | Counted::Not => Ok(()),
        }
    }
}
