//! The carrier's side of the links: who may bind, what becomes of a submit.

use crate::{
    behaviour::{Behaviour, Share},
    handset::{Written, WrittenError},
    ledger::Ledger,
    queries,
    receipts::{Epoch, Kind, Outbox, Owed, Waiting, is_wanted, receipt},
};
use sotto_core::{Clock, Sensitive, Timestamp};
use sotto_smpp::{
    BindKind, COctets, CommandStatus, Incoming, Link, MessageState, NotSentReason, Responder, Session,
    SessionOptions, Sm, Tlvs,
    pdu::QuerySm,
    server::{self, BindRequest},
};
use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Generous on purpose: how much the partner may have under way is the partner's affair here.
const SESSION: SessionOptions = SessionOptions {
    window: 1000,
    incoming_window: 20_000,
    response_timeout: Duration::from_secs(10),
    enquire_link_interval: Duration::from_secs(30),
    max_pdu: 65_536,
    late_capacity: 1,
};

/// A request with a command id that no specification has, and a body of nonsense.
const GARBAGE: [u8; 24] = [
    0, 0, 0, 24, 0, 0, 0x77, 0x77, 0, 0, 0, 0, 0x7F, 0, 0, 1, 0xDE, 0xAD, 0xBE, 0xEF, 0xFF, 0xFF, 0x00, 0x01,
];

/// How long an answer waits for its receipt to go first.
const RECEIPT_FIRST: Duration = Duration::from_secs(1);

/// Time before a receipt that was not taken is sent again.
const RETRY_RECEIPT: Duration = Duration::from_secs(1);

/// How long answers under way may take when the carrier unbinds.
const UNBIND: Duration = Duration::from_secs(1);

/// One partner.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) system_id: String,
    pub(crate) password: Sensitive<String>,
    pub(crate) outbox: Outbox,
}

/// Everything the links share.
#[derive(Debug)]
pub(crate) struct Carrier {
    pub(crate) accounts: BTreeMap<String, Arc<Account>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    clock: Arc<dyn Clock>,
    next_id: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ledger: Ledger,
    pub(crate) behaviour: Behaviour,
    /// Cancelled and replaced to cut every link.
    pub(crate) links: CancellationToken,
    /// Since the last reset.
    pub(crate) epoch: Arc<Epoch>,
    bound: Vec<(u64, Link<()>)>,
    /// Links of each partner, those just let in included.
    admitted: BTreeMap<String, u32>,
    shares: Shares,
    /// When submits of each partner passed the throttle, in the last second.
    passed: BTreeMap<String, VecDeque<Instant>>,
}

/// Which submits are hit by what.
#[derive(Debug, Default)]
struct Shares {
    refused: Share,
    unanswered: Share,
    slow: Share,
    early: Share,
    late: Share,
    enroute: Share,
    duplicated: Share,
    orphaned: Share,
    garbage: Share,
}

/// What becomes of a submit.
enum Fate {
    Refuse(CommandStatus),
    Take { id: String, answer: Answer, receipts: Vec<Sent>, garbage: bool },
}

enum Answer {
    Give { after: Duration },
    Withhold,
    Cut,
}

struct Sent {
    sm: Sm,
    copies: usize,
    after: Option<Duration>,
}

impl Carrier {
    pub(crate) fn new(
        accounts: Vec<(String, Sensitive<String>)>,
        behaviour: Behaviour,
        clock: Arc<dyn Clock>,
        journal: Option<File>,
    ) -> Self {
        let accounts = accounts.into_iter().map(|(system_id, password)| {
            (system_id.clone(), Arc::new(Account { system_id, password, outbox: Outbox::default() }))
        });
        // Ids of one run do not come back in the next.
        let first_id = u64::try_from(clock.now().unix_millis()).unwrap_or(0).saturating_mul(1000);
        let stop = CancellationToken::new();
        let state = State {
            ledger: Ledger::new(journal),
            behaviour,
            links: stop.child_token(),
            epoch: Arc::default(),
            bound: Vec::new(),
            admitted: BTreeMap::new(),
            shares: Shares::default(),
            passed: BTreeMap::new(),
        };
        Self {
            accounts: accounts.collect(),
            tasks: TaskTracker::new(),
            stop,
            clock,
            next_id: AtomicU64::new(first_id),
            state: Mutex::new(state),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, count: impl FnOnce(&mut crate::Counters)) {
        count(&mut self.lock().ledger.counters);
    }

    /// Serves one connection to its end.
    pub(crate) async fn serve<IO>(self: Arc<Self>, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        let cut = self.lock().links.clone();
        let served = async {
            let Ok(request) = server::accept(io, SESSION).await else { return };
            if self.lock().behaviour.mute_bind {
                return std::future::pending().await;
            }
            match self.admit(&request) {
                Ok(account) => self.bound(request, account, &cut).await,
                Err(status) => {
                    self.count(|counters| counters.binds_refused = counters.binds_refused.saturating_add(1));
                    // A partner that hung up meanwhile does not need to hear it.
                    drop(request.refuse(status).await);
                }
            }
        };
        // Cutting drops the connection as it stands.
        cut.run_until_cancelled(served).await;
    }

    fn admit<IO>(&self, request: &BindRequest<IO>) -> Result<Arc<Account>, CommandStatus> {
        if let Some(status) = self.lock().behaviour.refuse_bind_status {
            return Err(CommandStatus(status));
        }
        let name = request.bind.system_id.as_str().ok_or(CommandStatus::ESME_RINVSYSID)?;
        let account = self.accounts.get(name).ok_or(CommandStatus::ESME_RINVSYSID)?;
        if request.bind.password.as_bytes() != account.password.expose().as_bytes() {
            return Err(CommandStatus::ESME_RINVPASWD);
        }
        let mut state = self.lock();
        let limit = state.behaviour.max_binds.unwrap_or(u32::MAX);
        let admitted = state.admitted.entry(account.system_id.clone()).or_default();
        if *admitted >= limit {
            return Err(CommandStatus::ESME_RALYBND);
        }
        *admitted = admitted.saturating_add(1);
        Ok(Arc::clone(account))
    }

    async fn bound<IO>(
        self: &Arc<Self>,
        request: BindRequest<IO>,
        account: Arc<Account>,
        cut: &CancellationToken,
    ) where
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        let kind = request.bind.kind;
        let Session { link, incoming, driver, late: _ } = request.accept::<()>(&"simulator".into());
        self.count(|counters| counters.binds = counters.binds.saturating_add(1));
        let _bound = BoundLink::new(self, Arc::clone(&account), kind, link.clone());
        let cut = cut.child_token();
        let requests = link.take_requests();
        let served = async {
            tokio::join!(
                driver,
                self.take_submits(&account, incoming, &link, &cut),
                queries::answer(self, requests)
            )
        };
        cut.run_until_cancelled(served).await;
    }

    /// What is said of a part: its state, once its time has come. None: there is no such part of this sender.
    pub(crate) fn tell(&self, question: &QuerySm) -> Option<MessageState> {
        let now = self.clock.now();
        let mut state = self.lock();
        state.ledger.counters.queries = state.ledger.counters.queries.saturating_add(1);
        let at = state.ledger.find(question.message_id.as_bytes(), question.source.value.as_bytes())?;
        let delay = Duration::from_millis(state.behaviour.receipt_delay_ms);
        Some(if now.since(at) < delay { MessageState::Enroute } else { state.behaviour.state() })
    }

    async fn take_submits(
        self: &Arc<Self>,
        account: &Arc<Account>,
        mut incoming: Incoming,
        link: &Link<()>,
        cut: &CancellationToken,
    ) {
        let mut submits = 0_u64;
        while let Some((sm, responder)) = incoming.recv().await {
            submits = submits.saturating_add(1);
            let fate = self.decide(&sm, &account.system_id, submits);
            self.carry_out(fate, account, responder, link, cut);
        }
    }

    /// Decides what becomes of a submit, and remembers it.
    fn decide(&self, sm: &Sm, system_id: &str, of_link: u64) -> Fate {
        let micros = self.clock.unix_micros();
        let now = Timestamp::from_unix_millis(micros.div_euclid(1000));
        let mut state = self.lock();
        let State { ledger, behaviour, shares, passed, .. } = &mut *state;
        ledger.counters.submits = ledger.counters.submits.saturating_add(1);
        let passed = passed.entry(system_id.to_owned()).or_default();
        if behaviour.throttle_per_second.is_some_and(|limit| is_over(passed, limit, Instant::now())) {
            return Fate::Refuse(CommandStatus::ESME_RTHROTTLED);
        }
        if shares.refused.hit(behaviour.refuse_share) {
            return Fate::Refuse(CommandStatus(behaviour.refuse_status));
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let receipt_id = behaviour.receipt_id_form.unwrap_or(behaviour.message_id_form).write(id);
        let id = behaviour.message_id_form.write(id);
        if ledger.take(sm, system_id, &id, micros).is_err() {
            return Fate::Refuse(CommandStatus::ESME_RSYSERR);
        }
        let answer = if behaviour.drop_after_submits.is_some_and(|limit| of_link >= limit) {
            Answer::Cut
        } else if shares.unanswered.hit(behaviour.never_answer_share) {
            Answer::Withhold
        } else if shares.slow.hit(behaviour.slow_answers) {
            Answer::Give { after: Duration::from_millis(behaviour.slow_answer_delay_ms) }
        } else {
            Answer::Give { after: Duration::from_millis(behaviour.response_delay_ms) }
        };
        let mut receipts = Vec::new();
        let mut send = |state, copies, after| {
            receipts.push(Sent { sm: receipt(sm, &receipt_id, state, behaviour, now), copies, after });
        };
        if behaviour.receipts && is_wanted(sm, behaviour.state()) {
            let soon = Duration::from_millis(behaviour.receipt_delay_ms);
            if behaviour.receipt_enroute_first {
                send(MessageState::Enroute, 1, None);
            } else if shares.enroute.hit(behaviour.enroute_receipts) {
                send(MessageState::Enroute, 1, Some(soon / 2));
            }
            let copies = if shares.duplicated.hit(behaviour.duplicate_receipts) { 2 } else { 1 };
            let early = shares.early.hit(behaviour.early_receipts) || behaviour.receipt_before_response;
            let late = shares.late.hit(behaviour.late_receipts);
            let after = if late { Duration::from_millis(behaviour.late_receipt_delay_ms) } else { soon };
            send(behaviour.state(), copies, (!early).then_some(after));
            if shares.orphaned.hit(behaviour.orphan_receipts) {
                ledger.counters.orphans_sent = ledger.counters.orphans_sent.saturating_add(1);
                let never_given = self.next_id.fetch_add(1, Ordering::Relaxed);
                let id = behaviour.receipt_id_form.unwrap_or(behaviour.message_id_form).write(never_given);
                // Nor is it of anything that we sent.
                let other = Sm { tlvs: Tlvs::new(), ..sm.clone() };
                let sm = receipt(&other, &id, behaviour.state(), behaviour, now);
                receipts.push(Sent { sm, copies: 1, after: Some(soon) });
            }
        }
        Fate::Take { id, answer, receipts, garbage: shares.garbage.hit(behaviour.garbage) }
    }

    fn carry_out(
        self: &Arc<Self>,
        fate: Fate,
        account: &Arc<Account>,
        responder: Responder,
        link: &Link<()>,
        cut: &CancellationToken,
    ) {
        let (id, answer, receipts, garbage) = match fate {
            Fate::Refuse(status) => {
                self.lock().ledger.responded(status);
                return responder.respond(status);
            }
            Fate::Take { id, answer, receipts, garbage } => (id, answer, receipts, garbage),
        };
        if garbage {
            link.send_raw(&GARBAGE);
        }
        let mut queued = None;
        for receipt in receipts {
            queued = self.send_receipt(account, receipt).or(queued);
        }
        match answer {
            Answer::Give { after } if after.is_zero() && queued.is_none() => self.answer(responder, id),
            Answer::Give { after } => self.answer_later(responder, id, after, queued),
            Answer::Withhold => {
                self.count(|counters| counters.unanswered = counters.unanswered.saturating_add(1));
                responder.forget();
            }
            Answer::Cut => {
                self.count(|counters| counters.unanswered = counters.unanswered.saturating_add(1));
                responder.forget();
                cut.cancel();
            }
        }
    }

    fn answer(&self, responder: Responder, id: String) {
        self.lock().ledger.responded(CommandStatus::ESME_ROK);
        responder.respond_with(CommandStatus::ESME_ROK, COctets::from(id));
    }

    fn answer_later(
        self: &Arc<Self>,
        responder: Responder,
        id: String,
        after: Duration,
        receipt_queued: Option<oneshot::Receiver<()>>,
    ) {
        let carrier = Arc::clone(self);
        self.spawn(async move {
            sleep(after).await;
            if let Some(queued) = receipt_queued {
                // Without a link for the receipt the answer goes first after all.
                drop(timeout(RECEIPT_FIRST, queued).await);
            }
            carrier.answer(responder, id);
        });
    }

    /// Sends a receipt and its copies. When it is due before the answer, the result tells that it is on a link.
    fn send_receipt(
        self: &Arc<Self>,
        account: &Arc<Account>,
        receipt: Sent,
    ) -> Option<oneshot::Receiver<()>> {
        let Sent { sm, copies, after } = receipt;
        let sm = Box::new(sm);
        let epoch = Arc::clone(&self.lock().epoch);
        let mut first = None;
        for _ in 0..copies {
            let mut waiting = Waiting {
                kind: Kind::Receipt,
                sm: sm.clone(),
                owed: Owed::since(&epoch),
                first_sent: None,
                queued: None,
            };
            match after {
                Some(after) => self.put_later(account, waiting, after),
                None => {
                    let (queued, on_link) = oneshot::channel();
                    waiting.queued = Some(queued);
                    self.put(account, waiting);
                    first.get_or_insert(on_link);
                }
            }
        }
        first
    }

    /// Sends what somebody wrote; returns its parts.
    pub(crate) fn write(&self, written: &Written) -> Result<usize, WrittenError> {
        let account = self.accounts.get(&written.partner).ok_or(WrittenError::Partner)?;
        let [.., reference] = self.next_id.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let parts = written.parts(reference)?;
        let count = parts.len();
        let epoch = Arc::clone(&self.lock().epoch);
        for sm in parts {
            self.count(|counters| counters.written = counters.written.saturating_add(1));
            let owed = Owed::since(&epoch);
            let sm = Box::new(sm);
            self.put(account, Waiting { kind: Kind::Written, sm, owed, first_sent: None, queued: None });
        }
        Ok(count)
    }

    fn put(&self, account: &Account, waiting: Waiting) {
        if waiting.owed.over().is_cancelled() {
            return;
        }
        // When full the oldest goes, which is a receipt as good as always.
        if !account.outbox.push(waiting) {
            self.count(|counters| lost(counters, Kind::Receipt));
        }
    }

    fn put_later(self: &Arc<Self>, account: &Arc<Account>, waiting: Waiting, after: Duration) {
        let (carrier, account) = (Arc::clone(self), Arc::clone(account));
        self.spawn(async move {
            let over = waiting.owed.over().clone();
            if over.run_until_cancelled(sleep(after)).await.is_some() {
                carrier.put(&account, waiting);
            }
        });
    }

    /// Unbinds every link, as a carrier does before its maintenance.
    pub(crate) fn unbind(&self) {
        let bound: Vec<_> = self.lock().bound.iter().map(|(_, link)| link.clone()).collect();
        for link in bound {
            self.spawn(async move {
                link.drain(UNBIND).await;
            });
        }
    }

    /// Sends an account's receipts as long as the simulator runs.
    pub(crate) async fn dispatch(self: Arc<Self>, account: Arc<Account>) {
        loop {
            let (mut waiting, id, link) = account.outbox.next().await;
            let Ok(permit) = link.reserve().await else {
                account.outbox.remove(id);
                self.put(&account, waiting);
                continue;
            };
            let pending = match link.send(permit, waiting.sm.clone(), ()) {
                Ok(pending) => pending,
                Err(refused) if refused.reason == NotSentReason::Closing => {
                    account.outbox.remove(id);
                    self.put(&account, waiting);
                    continue;
                }
                Err(_) => {
                    self.count(|counters| lost(counters, waiting.kind));
                    continue;
                }
            };
            waiting.first_sent.get_or_insert_with(Instant::now);
            if let Some(queued) = waiting.queued.take() {
                // The answer may have stopped waiting for it.
                let _heard = queued.send(());
            }
            if waiting.kind == Kind::Receipt {
                self.count(|counters| counters.receipts_sent = counters.receipts_sent.saturating_add(1));
            }
            let (carrier, account) = (Arc::clone(&self), Arc::clone(&account));
            self.spawn(async move {
                let taken = pending.await.is_ok_and(|response| response.status.is_ok());
                carrier.receipt_settled(&account, waiting, taken);
            });
        }
    }

    fn receipt_settled(self: &Arc<Self>, account: &Arc<Account>, waiting: Waiting, taken: bool) {
        if waiting.owed.over().is_cancelled() {
            return;
        }
        let given_up = !taken && waiting.is_given_up(Instant::now());
        self.count(|counters| {
            let settled = match (waiting.kind, taken) {
                (Kind::Receipt, true) => &mut counters.receipts_acked,
                (Kind::Receipt, false) => &mut counters.receipts_failed,
                (Kind::Written, true) => &mut counters.written_acked,
                (Kind::Written, false) => &mut counters.written_failed,
            };
            *settled = settled.saturating_add(1);
            if given_up {
                lost(counters, waiting.kind);
            }
        });
        if !taken && !given_up {
            self.put_later(account, waiting, RETRY_RECEIPT);
        }
    }

    /// Runs a task until the simulator stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }
}

/// Counts what is given up.
const fn lost(counters: &mut crate::Counters, kind: Kind) {
    let lost = match kind {
        Kind::Receipt => &mut counters.receipts_lost,
        Kind::Written => &mut counters.written_lost,
    };
    *lost = lost.saturating_add(1);
}

/// Whether one more submit now would be over the limit of any second. One that is not over counts from now on.
fn is_over(passed: &mut VecDeque<Instant>, limit: u32, now: Instant) -> bool {
    while passed.front().is_some_and(|first| now.duration_since(*first) >= Duration::from_secs(1)) {
        passed.pop_front();
    }
    let over = passed.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    if !over {
        passed.push_back(now);
    }
    over
}

/// A link in the books, for as long as it is bound.
struct BoundLink<'a> {
    carrier: &'a Carrier,
    account: Arc<Account>,
    id: u64,
}

impl<'a> BoundLink<'a> {
    fn new(carrier: &'a Carrier, account: Arc<Account>, kind: BindKind, link: Link<()>) -> Self {
        let id = carrier.next_id.fetch_add(1, Ordering::Relaxed);
        carrier.lock().bound.push((id, link.clone()));
        if kind.receives() {
            account.outbox.add(id, link);
        }
        carrier.count(|counters| {
            counters.links = counters.links.saturating_add(1);
            counters.most_links = counters.most_links.max(counters.links);
        });
        Self { carrier, account, id }
    }
}

impl Drop for BoundLink<'_> {
    fn drop(&mut self) {
        self.account.outbox.remove(self.id);
        let mut state = self.carrier.lock();
        state.bound.retain(|(id, _)| *id != self.id);
        if let Some(admitted) = state.admitted.get_mut(&self.account.system_id) {
            *admitted = admitted.saturating_sub(1);
        }
        drop(state);
        self.carrier.count(|counters| counters.links = counters.links.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_holds_more_than_the_limit_wherever_it_begins() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut passed = VecDeque::new();
        // Two at the end of one second do not make room for three at the start of the next.
        let over: Vec<_> = [800, 900, 1_050, 1_100, 1_799, 1_800, 1_850]
            .map(|millis| is_over(&mut passed, 3, at(millis)))
            .into();
        assert_eq!(over, [false, false, false, true, true, false, true]);
    }
}
