//! What a carrier's refusal means for the message (SMPP 3.4 §5.1.3).

use sotto_smpp::CommandStatus;

/// What to do about a refused part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The carrier is busy, and asks for patience: the same account takes it later.
    Throttled,
    /// The carrier failed for a reason of its own that passes: the same account takes it later, unless another may.
    Passing,
    /// Another account may take it.
    Elsewhere,
    /// No account will take it.
    Final,
}

impl Refusal {
    /// Judges a status other than `ESME_ROK`. Statuses of a carrier's own, which are many, say nothing about other
    /// carriers. An invalid source is a matter of registration at this carrier; an invalid destination is none.
    pub(crate) const fn of(status: CommandStatus) -> Self {
        match status {
            CommandStatus::ESME_RTHROTTLED | CommandStatus::ESME_RMSGQFUL => Self::Throttled,
            CommandStatus::ESME_RSYSERR | CommandStatus::ESME_RX_T_APPN => Self::Passing,
            CommandStatus::ESME_RINVDSTADR => Self::Final,
            _ => Self::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_the_specification_is_judged() {
        let mut named = 0;
        for number in 1..=0xFF {
            let status = CommandStatus(number);
            if status.name().is_none() {
                continue;
            }
            named += 1;
            let expected = match number {
                0x14 | 0x58 => Refusal::Throttled,
                0x08 | 0x64 => Refusal::Passing,
                0x0B => Refusal::Final,
                _ => Refusal::Elsewhere,
            };
            assert_eq!(Refusal::of(status), expected, "{status}");
        }
        assert!(named > 40, "{named}");
        // Carriers' own: 0x400 to 0x4FF (§5.1.3), and anything else.
        for number in [0x400, 0x4FF, u32::MAX] {
            assert_eq!(Refusal::of(CommandStatus(number)), Refusal::Elsewhere);
        }
    }
}
