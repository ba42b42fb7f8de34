//! The wall clock of a service. In debug builds a test may shift it; release builds read the machine's alone.

use std::sync::Arc;

use sotto_core::Clock;

/// The clock of a service of this name.
#[cfg(not(debug_assertions))]
pub(crate) fn clock(_service: &'static str) -> Arc<dyn Clock> {
    Arc::new(sotto_core::SystemClock)
}

/// The clock of a service of this name: off by the milliseconds, ahead or behind, that are written in `run/clocks/<name>` of
/// the folder that the process works in.
#[cfg(debug_assertions)]
pub(crate) fn clock(service: &'static str) -> Arc<dyn Clock> {
    Arc::new(shifted::Shifted(service))
}

#[cfg(debug_assertions)]
mod shifted {
    use std::{fs, path::Path};

    use sotto_core::{Clock, SystemClock, Timestamp};

    #[derive(Debug)]
    pub(super) struct Shifted(pub(super) &'static str);

    impl Shifted {
        fn shift(&self) -> i64 {
            let file = fs::read_to_string(Path::new("run/clocks").join(self.0));
            file.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        }
    }

    impl Clock for Shifted {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_millis(SystemClock.now().unix_millis().saturating_add(self.shift()))
        }

        fn unix_micros(&self) -> i64 {
            SystemClock.unix_micros().saturating_add(self.shift().saturating_mul(1000))
        }
    }
}
