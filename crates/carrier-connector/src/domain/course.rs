//! Whether an account may be written to at this moment, as far as operators are concerned.

use std::time::Duration;

use sotto_core::{
    AccountId, Restored,
    control::{Controls, Flow},
};
use sotto_metrics::label;

/// How old the operators' words may be. Within it a stop must be effective: whoever does not hear, holds.
pub(crate) const STALE: Duration = Duration::from_secs(4);

/// What becomes of what waits for an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// It goes out.
    Run,
    /// It waits: the cell was put back from a backup, and nobody has let it go.
    Restored,
    /// It waits: traffic is stopped.
    Stopped,
    /// It waits: what operators say was not heard for too long.
    Unheard,
    /// It goes to other accounts.
    Paused,
    /// The same, and the binds end.
    Draining,
}

impl Course {
    /// As operators want it; `fresh`: their words were heard lately.
    pub(crate) fn of(
        controls: &Controls,
        fresh: bool,
        account: &AccountId,
        restored: Option<&Restored>,
    ) -> Self {
        if !fresh {
            return Self::Unheard;
        }
        if restored.is_some_and(|restored| controls.released(restored).is_none()) {
            return Self::Restored;
        }
        if controls.stop_account(account) {
            return Self::Stopped;
        }
        match controls.flow(account) {
            Flow::Running => Self::Run,
            Flow::Paused => Self::Paused,
            Flow::Draining => Self::Draining,
        }
    }

    /// Whether messages stay where they are.
    pub(crate) const fn holds(self) -> bool {
        match self {
            Self::Restored | Self::Stopped | Self::Unheard => true,
            Self::Run | Self::Paused | Self::Draining => false,
        }
    }

    /// Whether they go to other accounts.
    pub(crate) const fn hands_back(self) -> bool {
        match self {
            Self::Paused | Self::Draining => true,
            Self::Run | Self::Restored | Self::Stopped | Self::Unheard => false,
        }
    }
}

label! {
    /// What bounds an account, in one word.
    pub(crate) enum Bound("bound") {
        /// The cell was put back from a backup, and nobody has let it go.
        Restored = "restored",
        /// Traffic is stopped.
        Stopped = "stopped",
        /// What operators say was not heard for too long.
        Unheard = "unheard",
        /// Operators send its messages elsewhere.
        Paused = "paused",
        /// The same, and the binds end.
        Draining = "draining",
        /// Redis cannot be relied on.
        Redis = "redis",
        /// Privacy does not answer.
        Privacy = "privacy",
        /// Another replica has the binds.
        Elsewhere = "elsewhere",
        /// No bind is up.
        NoBind = "no_bind",
        /// The carrier asked to slow down.
        Throttled = "throttled",
        /// No place in the windows.
        Window = "window",
        /// No room in the rate.
        Rate = "rate",
        /// It goes out as it comes.
        Nothing = "nothing",
    }
}

/// What bounds an account at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Circumstances {
    /// What operators want.
    pub(crate) course: Course,
    /// Redis can be relied on.
    pub(crate) redis: bool,
    /// Privacy answers.
    pub(crate) privacy: bool,
    /// A bind is up here.
    pub(crate) bound: bool,
    /// Another replica has a bind up.
    pub(crate) elsewhere: bool,
    /// The carrier asked to slow down.
    pub(crate) throttled: bool,
    /// Parts that the rate has room for now.
    pub(crate) room: usize,
    /// Free places in the windows.
    pub(crate) free: usize,
}

impl Circumstances {
    /// The first bound that counts.
    pub(crate) const fn bound_by(self) -> Bound {
        match self.course {
            Course::Restored => return Bound::Restored,
            Course::Stopped => return Bound::Stopped,
            Course::Unheard => return Bound::Unheard,
            Course::Paused => return Bound::Paused,
            Course::Draining => return Bound::Draining,
            Course::Run => {}
        }
        if !self.redis {
            Bound::Redis
        } else if !self.privacy {
            Bound::Privacy
        } else if !self.bound && self.elsewhere {
            Bound::Elsewhere
        } else if !self.bound {
            Bound::NoBind
        } else if self.throttled {
            Bound::Throttled
        } else if self.free == 0 {
            Bound::Window
        } else if self.room == 0 {
            Bound::Rate
        } else {
            Bound::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use sotto_metrics::Label as _;

    use sotto_core::{
        Timestamp,
        control::{Control, Target},
        restored::Release,
    };

    use super::*;

    #[test]
    fn who_does_not_hear_holds_and_a_stop_goes_before_a_pause() {
        let account: AccountId = "vina".parse().unwrap();
        let other: AccountId = "mobi".parse().unwrap();
        let flow = |flow| Control::Flow { account: account.clone(), flow };
        let stop = |target| Control::Stop { target, stopped: true };
        for (words, expected, of_other) in [
            (vec![], Course::Run, Course::Run),
            (vec![flow(Flow::Paused)], Course::Paused, Course::Run),
            (vec![flow(Flow::Draining)], Course::Draining, Course::Run),
            (vec![flow(Flow::Paused), flow(Flow::Running)], Course::Run, Course::Run),
            (vec![flow(Flow::Paused), stop(Target::Account(account.clone()))], Course::Stopped, Course::Run),
            (vec![flow(Flow::Paused), stop(Target::All)], Course::Stopped, Course::Stopped),
            (vec![stop(Target::Tenant("acme".parse().unwrap()))], Course::Run, Course::Run),
        ] {
            let controls: Controls = words.into_iter().collect();
            assert_eq!(Course::of(&controls, true, &account, None), expected);
            assert_eq!(Course::of(&controls, true, &other, None), of_other);
            assert_eq!(Course::of(&controls, false, &account, None), Course::Unheard);
        }
        for course in [
            Course::Run,
            Course::Restored,
            Course::Stopped,
            Course::Unheard,
            Course::Paused,
            Course::Draining,
        ] {
            assert!(!(course.holds() && course.hands_back()));
        }
    }

    #[test]
    fn a_restored_cell_waits_for_the_release_of_this_restoration() {
        let account: AccountId = "vina".parse().unwrap();
        let (this, before) = [2, 1].map(|at| Restored { at: Timestamp::from_unix_seconds(at) }).into();
        let release = |restored| Control::Release { restored, how: Release::AsUnknown };
        let course =
            |words: Vec<Control>| Course::of(&words.into_iter().collect(), true, &account, Some(&this));
        assert_eq!(course(vec![]), Course::Restored);
        assert_eq!(course(vec![release(before)]), Course::Restored);
        assert_eq!(course(vec![release(this)]), Course::Run);
        let stop = Control::Stop { target: Target::All, stopped: true };
        assert_eq!(course(vec![release(this), stop]), Course::Stopped);
    }

    #[test]
    fn the_bound_that_counts_is_named() {
        let free = Circumstances {
            course: Course::Run,
            redis: true,
            privacy: true,
            bound: true,
            elsewhere: false,
            throttled: false,
            room: 1,
            free: 1,
        };
        for (circumstances, expected) in [
            (free, "nothing"),
            (Circumstances { room: 0, ..free }, "rate"),
            (Circumstances { free: 0, room: 0, ..free }, "window"),
            (Circumstances { throttled: true, room: 0, free: 0, ..free }, "throttled"),
            (Circumstances { bound: false, throttled: true, ..free }, "no_bind"),
            (Circumstances { bound: false, elsewhere: true, ..free }, "elsewhere"),
            (Circumstances { privacy: false, bound: false, ..free }, "privacy"),
            (Circumstances { redis: false, privacy: false, ..free }, "redis"),
            (Circumstances { course: Course::Paused, redis: false, ..free }, "paused"),
            (Circumstances { course: Course::Draining, ..free }, "draining"),
            (Circumstances { course: Course::Restored, ..free }, "restored"),
            (Circumstances { course: Course::Stopped, ..free }, "stopped"),
            (Circumstances { course: Course::Unheard, ..free }, "unheard"),
        ] {
            assert_eq!(circumstances.bound_by().value(), expected);
        }
    }
}
