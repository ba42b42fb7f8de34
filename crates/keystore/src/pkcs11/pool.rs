//! A bounded pool of sessions. When the token is lost, all of them are: the next caller begins anew, alone, once
//! nobody is inside the module any more.

use std::{
    fmt,
    ops::Deref,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cryptoki::{context::Pkcs11, session::Session, slot::Slot};

use super::token::lives;
use crate::KeystoreError;

/// A token that was found.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) slot: Slot,
}

pub(super) struct Pool {
    module: Pkcs11,
    most: usize,
    wait: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    idle: Vec<Session>,
    /// Of a token that was lost: closed before the module begins anew.
    dead: Vec<Session>,
    /// Sessions in somebody's hands, or being opened.
    out: usize,
    connecting: bool,
    /// How often the module began anew. Handles of objects are good within one epoch.
    epoch: u64,
    /// How often somebody tried to begin anew.
    attempts: u64,
    /// The token refused the PIN: trying again could lock it.
    refused: bool,
}

impl State {
    fn must_wait(&self, most: usize) -> bool {
        let none_free = self.idle.is_empty() && self.out >= most;
        !self.refused
            && (self.connecting
                || (self.link.is_some() && none_free)
                || (self.link.is_none() && self.out > 0))
    }
}

impl Pool {
    pub(super) fn new(module: Pkcs11, most: usize, wait: Duration) -> Self {
        Self { module, most: most.max(1), wait, state: Mutex::default(), changed: Condvar::new() }
    }

    /// A session, waited for as long as callers wait. `link` begins anew.
    pub(super) fn take(
        &self,
        label: &str,
        link: impl Fn(&Pkcs11) -> Result<(Link, Session), KeystoreError>,
    ) -> Result<Conn<'_>, KeystoreError> {
        let away = |source: Option<KeystoreError>| KeystoreError::Away {
            label: label.to_owned(),
            source: source.map(Box::new),
        };
        let before = self.lock();
        let attempts = before.attempts;
        let waited = self.changed.wait_timeout_while(before, self.wait, |state| state.must_wait(self.most));
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.refused {
            return Err(away(None));
        }
        if waited.timed_out() {
            return Err(match state.link {
                Some(_) => KeystoreError::Busy { label: label.to_owned() },
                None => away(None),
            });
        }
        let Some(found) = state.link else {
            // Somebody tried while we waited: once is enough for all.
            if state.attempts != attempts {
                return Err(away(None));
            }
            return self.begin_anew(state, link).map_err(|error| away(Some(error)));
        };
        state.out += 1;
        let (epoch, idle) = (state.epoch, state.idle.pop());
        drop(state);
        if let Some(session) = idle {
            return Ok(Conn { pool: self, link: found, session: Some(session), epoch });
        }
        match self.module.open_rw_session(found.slot) {
            Ok(session) => Ok(Conn { pool: self, link: found, session: Some(session), epoch }),
            Err(error) => {
                let mut state = self.lock();
                state.out -= 1;
                lose(&mut state, epoch);
                drop(state);
                self.changed.notify_all();
                let source = crate::error::DeviceError::from(&error);
                Err(away(Some(KeystoreError::Device {
                    label: label.to_owned(),
                    operation: "open a session",
                    source,
                })))
            }
        }
    }

    fn begin_anew(
        &self,
        mut state: MutexGuard<'_, State>,
        link: impl Fn(&Pkcs11) -> Result<(Link, Session), KeystoreError>,
    ) -> Result<Conn<'_>, KeystoreError> {
        state.connecting = true;
        let dead = std::mem::take(&mut state.dead);
        drop(state);
        // Outside the lock: an HSM may be slow in this.
        drop(dead);
        let linked = link(&self.module);
        let mut state = self.lock();
        state.connecting = false;
        state.attempts += 1;
        let result = match linked {
            Ok((found, session)) => {
                state.link = Some(found);
                state.epoch += 1;
                state.out += 1;
                Ok(Conn { pool: self, link: found, session: Some(session), epoch: state.epoch })
            }
            Err(error) => {
                state.refused = matches!(error, KeystoreError::Pin { .. });
                Err(error)
            }
        };
        drop(state);
        self.changed.notify_all();
        result
    }

    /// Ends all of it.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.link = None;
        state.idle.clear();
        state.dead.clear();
        drop(state);
        // Nothing is to be done when it fails: the process has no more use for the module.
        let _ended = self.module.clone().finalize();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters and lists that are whole between statements: sound behind a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lose(state: &mut State, epoch: u64) {
    if state.epoch == epoch {
        state.link = None;
        let idle = std::mem::take(&mut state.idle);
        state.dead.extend(idle);
    }
}

/// A session in somebody's hands. It goes back to the pool when dropped.
pub(super) struct Conn<'a> {
    pool: &'a Pool,
    link: Link,
    session: Option<Session>,
    pub(super) epoch: u64,
}

impl Conn<'_> {
    /// Whether the token is still there.
    pub(super) fn lives(&self) -> bool {
        self.session.as_ref().is_some_and(|session| lives(&self.pool.module, self.link.slot, session))
    }

    /// Gives the whole token up.
    pub(super) fn lost(self) {
        lose(&mut self.pool.lock(), self.epoch);
    }
}

impl Deref for Conn<'_> {
    type Target = Session;
    #[expect(clippy::expect_used, reason = "taken only when dropped")]
    fn deref(&self) -> &Session {
        self.session.as_ref().expect("a session until it is dropped")
    }
}

impl Drop for Conn<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.out -= 1;
        if let Some(session) = self.session.take() {
            if state.epoch == self.epoch && state.link.is_some() {
                state.idle.push(session);
            } else {
                state.dead.push(session);
            }
        }
        drop(state);
        self.pool.changed.notify_all();
    }
}

impl fmt::Debug for Conn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}
