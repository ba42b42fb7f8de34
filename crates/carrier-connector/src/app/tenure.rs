//! Keeping the leases of an account's binds, and telling each bind whether it is ours.

use std::{io, sync::Arc, time::Duration};

use futures::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use sotto_bus::{LeaseKey, RegisterError};
use sotto_core::AccountId;
use sotto_runtime::{
    fuse::{Fuse, Fuses},
    telemetry::chain,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::account::Account;
use crate::domain::{
    lease::{Leases, Step, Tenure},
    pace::SECOND,
};

/// Binds in a row that failed until another replica may try.
const FAILURES: u32 = 3;

/// Reports under way; more than an account has binds.
const REPORTS: usize = 256;

/// How long the last words may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// What a bind tells its keeper.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Report {
    /// It could not be had, again and again.
    Failing,
    /// It is unbound, and nothing goes that way any more.
    Left(u16),
}

/// A bind's side: whether it is ours, and what to tell about it.
#[derive(Debug)]
pub(crate) struct Post {
    /// Its number in the contract, from 1.
    pub(crate) number: u16,
    pub(crate) tenure: watch::Receiver<Tenure>,
    /// How long after its end the kernel ends the process, should the bind still be open then.
    fuse_after: Duration,
    fuses: Fuses,
    reports: mpsc::Sender<Report>,
    failures: u32,
}

impl Post {
    /// Resolves when the bind is ours to keep.
    pub(crate) async fn ours(&self) {
        let held = |tenure: &Tenure| matches!(tenure, Tenure::Held { .. }) && tenure.allows(Instant::now());
        until(&mut self.tenure.clone(), held).await;
    }

    /// Whether it is ours at this moment.
    pub(crate) fn is_ours(&self) -> bool {
        self.tenure.borrow().allows(Instant::now())
    }

    /// Resolves when it is to be unbound in order.
    pub(crate) async fn leaving(&self) {
        until(&mut self.tenure.clone(), |tenure| matches!(tenure, Tenure::Leaving { .. })).await;
    }

    /// Resolves when it is not ours any more: it was not renewed in time, or another has it.
    pub(crate) async fn lost(&self) {
        let mut tenure = self.tenure.clone();
        loop {
            let end = match *tenure.borrow_and_update() {
                Tenure::None => return,
                Tenure::Held { until } | Tenure::Leaving { until } => until,
            };
            tokio::select! {
                () = sleep_until(end) => return,
                changed = tenure.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Sees to it that nothing of this bind is open for longer than others wait, also if this process stands still. What it
    /// gives must run beside whatever holds the connection, and be dropped with it; it resolves only if the kernel refuses.
    pub(crate) async fn guard(&self) -> io::Result<Guard> {
        let (mut tenure, after, fuse) = (self.tenure.clone(), self.fuse_after, self.fuses.fuse());
        let first = set(&fuse, &mut tenure, after).await;
        let guard = async move {
            loop {
                if tenure.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                if let Err(error) = set(&fuse, &mut tenure, after).await {
                    return error;
                }
            }
        };
        first.map(|()| guard.boxed())
    }

    /// It is bound.
    pub(crate) const fn bound(&mut self) {
        self.failures = 0;
    }

    /// It could not be bound.
    pub(crate) fn failed(&mut self) {
        self.failures += 1;
        if self.failures.is_multiple_of(FAILURES) {
            self.report(Report::Failing);
        }
    }

    /// It is unbound.
    pub(crate) fn left(&self) {
        self.report(Report::Left(self.number));
    }

    fn report(&self, report: Report) {
        // Nobody listens: the process ends. A bind reports one thing at a time, so there is room.
        let _unheard = self.reports.try_send(report);
    }
}

/// What keeps a fuse behind the end of a tenure.
pub(crate) type Guard = BoxFuture<'static, io::Error>;

async fn set(fuse: &Fuse, tenure: &mut watch::Receiver<Tenure>, after: Duration) -> io::Result<()> {
    let tenure = *tenure.borrow_and_update();
    match tenure {
        // It is being cut at this moment; what was set stands.
        Tenure::None => Ok(()),
        Tenure::Held { until } | Tenure::Leaving { until } => fuse.set(until + after).await,
    }
}

/// Waits for a state of the tenure; for ever if its keeper is gone.
async fn until(tenure: &mut watch::Receiver<Tenure>, wanted: impl Fn(&Tenure) -> bool) {
    if tenure.wait_for(|tenure| wanted(tenure)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The keeper's side of all binds of an account.
#[derive(Debug)]
pub(crate) struct Posts {
    tenures: Vec<(u16, watch::Sender<Tenure>)>,
    reports: mpsc::Receiver<Report>,
}

/// A post for each bind of a contract, and its keeper's side. `lease` is the time for which a bind is leased.
pub(crate) fn posts(binds: u16, lease: Duration, fuses: &Fuses) -> (Posts, Vec<Post>) {
    let (reports, inbox) = mpsc::channel(REPORTS);
    let tenures: Vec<_> = (1..=binds).map(|number| (number, watch::Sender::new(Tenure::None))).collect();
    let post = |(number, tenure): &(u16, watch::Sender<Tenure>)| Post {
        number: *number,
        tenure: tenure.subscribe(),
        // Used for two thirds; half of the last third is for cutting it.
        fuse_after: lease / 6,
        fuses: fuses.clone(),
        reports: reports.clone(),
        failures: 0,
    };
    let posts = tenures.iter().map(post).collect();
    (Posts { tenures, reports: inbox }, posts)
}

impl Posts {
    /// Takes all binds from a test.
    #[cfg(test)]
    pub(crate) fn end(&self) {
        for (_, sender) in &self.tenures {
            sender.send_replace(Tenure::None);
        }
    }

    /// Gives all binds to a test, for ever.
    #[cfg(test)]
    pub(crate) fn hold(&self) {
        for (_, sender) in &self.tenures {
            sender.send_replace(Tenure::Held { until: Instant::now() + Duration::from_secs(3600) });
        }
    }

    fn tell(&self, leases: &Leases) {
        for (number, sender) in &self.tenures {
            let tenure = leases.tenure(*number);
            sender.send_if_modified(|before| std::mem::replace(before, tenure) != tenure);
        }
    }
}

/// Keeps an account's share of binds and rate until `ended`, when no bind is in use any more; then lets all of it go.
pub(crate) async fn keep(
    account: Arc<Account>,
    register: sotto_bus::Leases,
    mut leases: Leases,
    mut posts: Posts,
    ended: CancellationToken,
) {
    let id = account.settings.id.clone();
    let period = leases.period();
    let mut well = true;
    loop {
        let bound = account.line.bound();
        match register.of(&id).await {
            Ok(read) => {
                leases.observe(read, Instant::now());
                leases.set_bound(&bound);
                let steps = leases.plan(Instant::now());
                let failed = write(&register, &id, &mut leases, steps).await;
                tell_once(&id, &mut well, failed.as_deref());
            }
            Err(error) => {
                tell_once(&id, &mut well, Some(&chain(&error)));
                // What is held ends by itself if this lasts.
                leases.expire(Instant::now());
            }
        }
        let elsewhere = leases.served_elsewhere(Instant::now());
        account.line.set_slices(leases.slices(account.settings.tps), elsewhere);
        posts.tell(&leases);
        tokio::select! {
            () = sleep(period) => {}
            // Others are told at once that this replica serves the account, or does not any more.
            () = account.line.bound_other_than(&bound) => {}
            () = ended.cancelled() => break,
            report = posts.reports.recv() => match report {
                // With another bind up the carrier can be reached from here: it is this bind that it refuses.
                Some(Report::Failing) if account.line.is_up() => {}
                Some(Report::Failing) => leases.sit_out(Instant::now()),
                Some(Report::Left(bind)) => {
                    // What was written in the last second still counts at the carrier.
                    sleep(SECOND).await;
                    let steps = leases.release_held(bind).into_iter().collect();
                    let failed = write(&register, &id, &mut leases, steps).await;
                    tell_once(&id, &mut well, failed.as_deref());
                }
                None => {}
            },
        }
    }
    let mut steps = vec![leases.farewell()];
    steps.extend((1..=account.settings.binds).filter_map(|bind| leases.release_held(bind)));
    // What is not unbound by now is cut before others hear that they may bind.
    posts.tell(&leases);
    sleep(SECOND).await;
    // Whoever comes next waits for what is not heard.
    let _in_time = timeout(FAREWELL, write(&register, &id, &mut leases, steps)).await;
}

/// Writes all steps at the same time; says what failed for another reason than that somebody was first.
async fn write(
    register: &sotto_bus::Leases,
    account: &AccountId,
    leases: &mut Leases,
    steps: Vec<Step>,
) -> Option<String> {
    let asked = Instant::now();
    let writes = steps.iter().map(|step| register.write(account, &step.key, &step.record, step.expected));
    let written = join_all(writes).await;
    let mut failed = None;
    for (step, written) in steps.iter().zip(written) {
        match written {
            Ok(sequence) => leases.written(step, sequence, asked),
            Err(RegisterError::Conflict) => {
                if matches!(step.key, LeaseKey::Bind(_)) {
                    tracing::debug!(%account, key = %step.key, "another replica was first");
                }
                leases.refused(step);
            }
            Err(RegisterError::Publish(error)) => failed = Some(error.to_string()),
        }
    }
    failed
}

fn tell_once(account: &AccountId, well: &mut bool, failed: Option<&str>) {
    match failed {
        Some(error) if *well => {
            tracing::warn!(%account, error, "leases cannot be renewed: binds are cut when they end");
        }
        None if !*well => tracing::info!(%account, "leases are renewed again"),
        Some(_) | None => {}
    }
    *well = failed.is_none();
}
