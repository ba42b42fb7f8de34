//! Waits for conditions, never for time alone.

use std::{
    fmt::{Debug, Display},
    future::Future,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds; fails the test after `bound`, naming `what` was waited for. Polls every 20 ms of
/// real time: do not use it under paused time.
///
/// # Panics
/// When the bound is over.
pub async fn eventually<F>(bound: Duration, what: &str, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let result = poll(bound, || {
        let holds = condition();
        async move { if holds.await { Ok(()) } else { Err("it does not hold") } }
    });
    finish(bound, what, result.await);
}

/// Waits until `attempt` succeeds and returns its value; fails the test after `bound` with the last error.
///
/// # Panics
/// When the bound is over.
pub async fn eventually_ok<T, E, F>(bound: Duration, what: &str, attempt: impl FnMut() -> F) -> T
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    finish(bound, what, poll(bound, attempt).await)
}

fn finish<T>(bound: Duration, what: &str, result: Result<T, String>) -> T {
    match result {
        Ok(value) => value,
        Err(last) => panic!("waited {bound:?} for {what}; last: {last}"),
    }
}

/// The last error as text when the bound is over.
pub(crate) async fn poll<T, E, F>(bound: Duration, mut attempt: impl FnMut() -> F) -> Result<T, String>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let end = Instant::now() + bound;
    let mut last = "never tried".to_owned();
    loop {
        match timeout_at(end, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(e)) => last = e.to_string(),
            Err(_) => return Err(format!("{last} (and the last try did not answer)")),
        }
        if Instant::now() >= end {
            return Err(last);
        }
        sleep(POLL).await;
    }
}

/// Unwraps what only a broken test environment can refuse.
///
/// # Panics
/// With `what` and the error.
#[track_caller]
pub(crate) fn must<T, E: Debug>(what: &str, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(e) => panic!("{what}: {e:?}"),
    }
}
