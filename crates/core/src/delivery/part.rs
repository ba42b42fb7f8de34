//! One part (SMS) of a message.

use super::ReceiptState;

/// What is not known of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doubt {
    /// Written, never answered: whether the carrier took it is not known.
    NoResponse,
    /// Taken by the carrier, which never told the outcome.
    NoReceipt,
    /// The cell was put back from a backup: what became of it in the time that was lost is not known. No attempt.
    Restored,
}

/// Where a part is. The attempt says which submit the evidence is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartState {
    /// Not submitted.
    Pending,
    /// Intent is durable; it may be on the socket.
    Submitting {
        /// Which attempt.
        attempt: u16,
    },
    /// The carrier took it.
    Submitted {
        /// Which attempt.
        attempt: u16,
    },
    /// Written, not answered in time.
    NoResponse {
        /// Which attempt.
        attempt: u16,
    },
    /// Refused for good.
    Refused {
        /// Which attempt; 0 if it never reached a carrier.
        attempt: u16,
        /// The carrier's status; 0 if it never reached one.
        status: u32,
    },
    /// It reached the handset.
    Delivered {
        /// Which attempt.
        attempt: u16,
    },
    /// The carrier could not deliver it.
    Undelivered {
        /// Which attempt.
        attempt: u16,
    },
    /// Its validity ended, here or at the carrier.
    Expired,
    /// Cancelled.
    Cancelled,
    /// Doubt was closed at its deadline.
    Unknown {
        /// Which attempt.
        attempt: u16,
        /// What is not known.
        doubt: Doubt,
    },
}

impl PartState {
    /// Whether something may still happen to it of which the message's end depends.
    pub const fn is_live(&self) -> bool {
        match self {
            Self::Pending | Self::Submitting { .. } | Self::Submitted { .. } | Self::NoResponse { .. } => {
                true
            }
            Self::Refused { .. }
            | Self::Delivered { .. }
            | Self::Undelivered { .. }
            | Self::Expired
            | Self::Cancelled
            | Self::Unknown { .. } => false,
        }
    }

    /// Whether it is, or may be, with a carrier whose word is outstanding.
    pub const fn is_with_carrier(&self) -> bool {
        match self {
            Self::Submitting { .. } | Self::Submitted { .. } | Self::NoResponse { .. } => true,
            Self::Pending
            | Self::Refused { .. }
            | Self::Delivered { .. }
            | Self::Undelivered { .. }
            | Self::Expired
            | Self::Cancelled
            | Self::Unknown { .. } => false,
        }
    }

    /// Replaces the state; says whether it changed.
    fn become_state(&mut self, to: Self) -> bool {
        let changed = *self != to;
        *self = to;
        changed
    }

    /// The attempt that the state is about, if it is about one.
    const fn attempt(&self) -> Option<u16> {
        match *self {
            Self::Refused { attempt: 0, .. } | Self::Pending | Self::Expired | Self::Cancelled => None,
            Self::Submitting { attempt }
            | Self::Submitted { attempt }
            | Self::NoResponse { attempt }
            | Self::Refused { attempt, .. }
            | Self::Delivered { attempt }
            | Self::Undelivered { attempt }
            | Self::Unknown { attempt, .. } => Some(attempt),
        }
    }

    pub(super) fn submitting(&mut self, attempt: u16) -> bool {
        match *self {
            Self::Pending => self.become_state(Self::Submitting { attempt }),
            // A further attempt: after doubt only where policy says so (INV-5), and the log shows it; or the word that
            // ended the earlier one comes late.
            Self::Submitting { attempt: before } | Self::NoResponse { attempt: before }
                if before < attempt =>
            {
                self.become_state(Self::Submitting { attempt })
            }
            // Declared over before a submit that was already under way: the part lives again, the end stands.
            Self::Expired
            | Self::Cancelled
            | Self::Refused { attempt: 0, .. }
            | Self::Unknown { doubt: Doubt::Restored, .. } => self.become_state(Self::Submitting { attempt }),
            Self::Submitting { .. }
            | Self::Submitted { .. }
            | Self::NoResponse { .. }
            | Self::Refused { .. }
            | Self::Delivered { .. }
            | Self::Undelivered { .. }
            | Self::Unknown { .. } => false,
        }
    }

    pub(super) fn submitted(&mut self, attempt: u16, over: u16) -> bool {
        match *self {
            Self::Pending => self.become_state(Self::Submitted { attempt }),
            Self::Expired
            | Self::Cancelled
            | Self::Refused { attempt: 0, .. }
            | Self::Unknown { doubt: Doubt::Restored, .. }
                if attempt > over =>
            {
                self.become_state(Self::Submitted { attempt })
            }
            Self::Submitting { attempt: of } | Self::NoResponse { attempt: of } if of == attempt => {
                self.become_state(Self::Submitted { attempt })
            }
            // A response after the deadline closed the doubt: now only the receipt is missing.
            Self::Unknown { attempt: of, doubt: Doubt::NoResponse } if of == attempt => {
                self.become_state(Self::Unknown { attempt, doubt: Doubt::NoReceipt })
            }
            Self::Submitting { .. }
            | Self::NoResponse { .. }
            | Self::Submitted { .. }
            | Self::Refused { .. }
            | Self::Delivered { .. }
            | Self::Undelivered { .. }
            | Self::Expired
            | Self::Cancelled
            | Self::Unknown { .. } => false,
        }
    }

    pub(super) fn refused(&mut self, attempt: u16, status: u32, retried: bool) -> bool {
        match *self {
            Self::Submitting { attempt: of } | Self::NoResponse { attempt: of } if of == attempt => {
                let to = if retried { Self::Pending } else { Self::Refused { attempt, status } };
                self.become_state(to)
            }
            Self::Pending | Self::Refused { attempt: 0, .. } if !retried => {
                self.become_state(Self::Refused { attempt, status })
            }
            Self::Unknown { attempt: of, .. } if of == attempt => {
                self.become_state(Self::Refused { attempt, status })
            }
            Self::Pending
            | Self::Submitting { .. }
            | Self::NoResponse { .. }
            | Self::Submitted { .. }
            | Self::Refused { .. }
            | Self::Delivered { .. }
            | Self::Undelivered { .. }
            | Self::Expired
            | Self::Cancelled
            | Self::Unknown { .. } => false,
        }
    }

    pub(super) fn unsent(&mut self, attempt: u16) -> bool {
        match *self {
            Self::Submitting { attempt: of } if of == attempt => self.become_state(Self::Pending),
            Self::Submitting { .. }
            | Self::Pending
            | Self::Submitted { .. }
            | Self::NoResponse { .. }
            | Self::Refused { .. }
            | Self::Delivered { .. }
            | Self::Undelivered { .. }
            | Self::Expired
            | Self::Cancelled
            | Self::Unknown { .. } => false,
        }
    }

    pub(super) fn no_response(&mut self, attempt: u16) -> bool {
        match *self {
            Self::Submitting { attempt: of } if of == attempt => {
                self.become_state(Self::NoResponse { attempt })
            }
            Self::Submitting { .. }
            | Self::Pending
            | Self::Submitted { .. }
            | Self::NoResponse { .. }
            | Self::Refused { .. }
            | Self::Delivered { .. }
            | Self::Undelivered { .. }
            | Self::Expired
            | Self::Cancelled
            | Self::Unknown { .. } => false,
        }
    }

    /// `over`: the newest attempt at this part of which nothing more comes.
    pub(super) fn receipt(&mut self, attempt: u16, said: ReceiptState, over: u16) -> bool {
        // Whatever was believed, a handset that has the text has it.
        if let Self::Delivered { .. } = self {
            return false;
        }
        // Bad news of an attempt that is past says nothing about the one that followed it.
        let waiting_for = if matches!(self, Self::Expired) { over } else { over.saturating_add(1) };
        let past = attempt < self.attempt().unwrap_or(waiting_for);
        match said {
            ReceiptState::Delivered => self.become_state(Self::Delivered { attempt }),
            ReceiptState::Undeliverable | ReceiptState::Deleted | ReceiptState::Rejected => {
                !past && self.become_state(Self::Undelivered { attempt })
            }
            ReceiptState::Expired => {
                !past && !matches!(self, Self::Undelivered { .. }) && self.become_state(Self::Expired)
            }
            // No end, but proof that the carrier has it. "Accepted" too: carriers that use it mean that they took the
            // message, not that the handset did.
            ReceiptState::Enroute | ReceiptState::Accepted | ReceiptState::Unknown => match *self {
                Self::Submitting { attempt: of } | Self::NoResponse { attempt: of } if of == attempt => {
                    self.become_state(Self::Submitted { attempt })
                }
                Self::Submitting { .. }
                | Self::NoResponse { .. }
                | Self::Pending
                | Self::Submitted { .. }
                | Self::Refused { .. }
                | Self::Delivered { .. }
                | Self::Undelivered { .. }
                | Self::Expired
                | Self::Cancelled
                | Self::Unknown { .. } => false,
            },
        }
    }

    pub(super) fn close_unknown(&mut self) -> bool {
        match *self {
            Self::Submitting { attempt } | Self::NoResponse { attempt } => {
                self.become_state(Self::Unknown { attempt, doubt: Doubt::NoResponse })
            }
            Self::Submitted { attempt } => {
                self.become_state(Self::Unknown { attempt, doubt: Doubt::NoReceipt })
            }
            // A message of which some parts were never sent, and the others are in doubt, ends too.
            Self::Pending => self.become_state(Self::Expired),
            Self::Refused { .. }
            | Self::Delivered { .. }
            | Self::Undelivered { .. }
            | Self::Expired
            | Self::Cancelled
            | Self::Unknown { .. } => false,
        }
    }
}
