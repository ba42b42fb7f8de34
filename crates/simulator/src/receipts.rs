//! Receipts: made, kept until a link of their account is bound, sent until they are taken. So are messages from handsets.

use crate::behaviour::{Behaviour, ReceiptForm};
use bytes::Bytes;
use sotto_core::Timestamp;
use sotto_smpp::{Link, MessageState, Sm, Tlvs, pdu::esm_class, receipt::TextForm, tlv::tag};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Receipts waiting for one account.
const WAITING: usize = 200_000;

/// How long a receipt is sent again that the partner does not take: longer than any of its restarts.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The octets that `short_message` holds (SMPP 3.4 §4.6.1).
const SHORT_MESSAGE: usize = 254;

/// The time between two resets. What belongs to an earlier one is forgotten wherever it is.
#[derive(Debug, Default)]
pub(crate) struct Epoch {
    pub(crate) over: CancellationToken,
    /// What was made and is neither taken nor given up.
    owed: AtomicUsize,
}

impl Epoch {
    pub(crate) fn owed(&self) -> usize {
        self.owed.load(Ordering::Relaxed)
    }
}

/// Counts one thing as owed for as long as it exists: while it waits for its time or a link, and while its answer is
/// awaited.
#[derive(Debug)]
pub(crate) struct Owed(Arc<Epoch>);

impl Owed {
    pub(crate) fn since(epoch: &Arc<Epoch>) -> Self {
        epoch.owed.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(epoch))
    }

    pub(crate) fn over(&self) -> &CancellationToken {
        &self.0.over
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.owed.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is on its way to a partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A receipt.
    Receipt,
    /// A message from a handset.
    Written,
}

/// A receipt or a message from a handset on its way.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) kind: Kind,
    pub(crate) sm: Box<Sm>,
    pub(crate) owed: Owed,
    /// When it was sent for the first time.
    pub(crate) first_sent: Option<Instant>,
    /// Told when it goes onto a link.
    pub(crate) queued: Option<oneshot::Sender<()>>,
}

impl Waiting {
    /// Whether it was sent for long enough.
    pub(crate) fn is_given_up(&self, now: Instant) -> bool {
        self.first_sent.is_some_and(|first| now.saturating_duration_since(first) >= PATIENCE)
    }
}

/// The links and waiting receipts of one account.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    /// Told when there is a new receipt or a new link.
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    links: Vec<(u64, Link<()>)>,
    turn: usize,
}

impl Outbox {
    /// Adds a receipt; when full the oldest goes and `false` is returned.
    pub(crate) fn push(&self, waiting: Waiting) -> bool {
        let mut inner = self.lock();
        let fits = inner.waiting.len() < WAITING;
        if !fits {
            inner.waiting.pop_front();
        }
        inner.waiting.push_back(waiting);
        drop(inner);
        self.news.notify_one();
        fits
    }

    pub(crate) fn add(&self, id: u64, link: Link<()>) {
        self.lock().links.push((id, link));
        self.news.notify_one();
    }

    pub(crate) fn remove(&self, id: u64) {
        self.lock().links.retain(|(other, _)| *other != id);
    }

    pub(crate) fn clear(&self) {
        self.lock().waiting.clear();
    }

    /// The next receipt and a link to send it on, in turn over the links. The receipt is taken only once there is a
    /// link.
    pub(crate) async fn next(&self) -> (Waiting, u64, Link<()>) {
        loop {
            let news = self.news.notified();
            if let Some(next) = self.lock().pick() {
                return next;
            }
            news.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn pick(&mut self) -> Option<(Waiting, u64, Link<()>)> {
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn.checked_rem(self.links.len())?;
        let (id, link) = self.links.get(turn)?;
        let waiting = self.waiting.pop_front()?;
        Some((waiting, *id, link.clone()))
    }
}

/// The receipt for a message that was taken.
pub(crate) fn receipt(sm: &Sm, id: &str, state: MessageState, behaviour: &Behaviour, at: Timestamp) -> Sm {
    let good = matches!(state, MessageState::Delivered | MessageState::Enroute);
    let (text, tlv) = match behaviour.receipt_form {
        ReceiptForm::Text => (true, false),
        ReceiptForm::Tlv => (false, true),
        ReceiptForm::Both => (true, true),
    };
    let mut receipt = Sm {
        source: sm.destination.clone(),
        destination: sm.source.clone(),
        esm_class: esm_class::RECEIPT,
        ..Sm::default()
    };
    if text {
        let time = minutes(at);
        let form = TextForm {
            id,
            stat: state.word(),
            submitted: &time,
            done: &time,
            err: if good { "000" } else { "001" },
        };
        let mut octets = form.to_string().into_bytes();
        if behaviour.receipt_echoes_text {
            let (_, payload) = sm.split_header();
            octets.extend_from_slice(&payload);
            octets.truncate(SHORT_MESSAGE);
            receipt.data_coding = sm.data_coding;
        }
        receipt.short_message = Bytes::from(octets);
    }
    if tlv {
        receipt.tlvs = Tlvs::new()
            .with_c_octets(tag::RECEIPTED_MESSAGE_ID, id)
            .with_u8(tag::MESSAGE_STATE, state.octet());
        if !good {
            receipt.tlvs.push(tag::NETWORK_ERROR_CODE, Bytes::from_static(&[3, 0, 1]));
        }
    }
    if let Some(reference) = sm.tlvs.user_message_reference().filter(|_| behaviour.receipt_reference) {
        receipt.tlvs = receipt.tlvs.with_u16(tag::USER_MESSAGE_REFERENCE, reference);
    }
    receipt
}

/// Whether the sender wants a receipt of this state (SMPP 3.4 §5.2.17).
pub(crate) fn is_wanted(sm: &Sm, state: MessageState) -> bool {
    match sm.registered_delivery & 0b11 {
        1 => true,
        2 => !matches!(state, MessageState::Delivered),
        _ => false,
    }
}

/// `YYMMDDhhmm` in UTC.
fn minutes(at: Timestamp) -> String {
    let time = jiff::Timestamp::from_millisecond(at.unix_millis()).unwrap_or_default();
    time.strftime("%y%m%d%H%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sotto_smpp::Receipt;

    #[test]
    fn each_form_can_be_read() {
        for form in [ReceiptForm::Text, ReceiptForm::Tlv, ReceiptForm::Both] {
            let behaviour =
                Behaviour { receipt_form: form, receipt_state: "UNDELIV".to_owned(), ..Behaviour::default() };
            let at = Timestamp::from_unix_millis(1_795_493_815_007);
            let state = behaviour.state();
            let read = Receipt::parse(&receipt(&Sm::default(), "A1", state, &behaviour, at)).unwrap();
            assert_eq!((read.id.as_str(), read.state), ("A1", MessageState::Undeliverable));
            assert!(read.error.is_some());
            assert_eq!(read.done_at.is_some(), form != ReceiptForm::Tlv);
        }
    }

    #[test]
    fn a_reference_is_repeated_in_every_form_unless_it_is_not_to_be() {
        let tlvs = Tlvs::new().with_u16(tag::USER_MESSAGE_REFERENCE, 0xA55A);
        let sm = Sm { tlvs, ..Sm::default() };
        let reference = |sm: &Sm, behaviour: &Behaviour| {
            let made = receipt(sm, "A1", MessageState::Delivered, behaviour, Timestamp::default());
            made.tlvs.user_message_reference()
        };
        for receipt_form in [ReceiptForm::Text, ReceiptForm::Tlv, ReceiptForm::Both] {
            let behaviour = Behaviour { receipt_form, ..Behaviour::default() };
            assert_eq!(reference(&sm, &behaviour), Some(0xA55A));
            assert_eq!(reference(&Sm::default(), &behaviour), None);
            let behaviour = Behaviour { receipt_reference: false, ..behaviour };
            assert_eq!(reference(&sm, &behaviour), None);
        }
    }

    #[test]
    fn a_receipt_outlasts_a_partners_restart() {
        let first = Instant::now();
        let minutes = |minutes: u64| first + Duration::from_secs(60 * minutes);
        let mut waiting = Waiting {
            kind: Kind::Receipt,
            sm: Box::default(),
            owed: Owed::since(&Arc::default()),
            first_sent: None,
            queued: None,
        };
        assert!(!waiting.is_given_up(minutes(100)), "it only waits for a link");
        waiting.first_sent = Some(first);
        assert!(!waiting.is_given_up(minutes(10)) && waiting.is_given_up(minutes(15)));
    }

    #[test]
    fn an_echo_fits_and_is_last() {
        let behaviour =
            Behaviour { receipt_form: ReceiptForm::Text, receipt_echoes_text: true, ..Behaviour::default() };
        let long = Sm { short_message: Bytes::from(vec![b'x'; 200]), ..Sm::default() };
        let made = receipt(&long, "A1", MessageState::Delivered, &behaviour, Timestamp::default());
        assert_eq!(made.short_message.len(), SHORT_MESSAGE);
        assert!(made.short_message.ends_with(b"xxx"));
        assert_eq!(Receipt::parse(&made).unwrap().id, "A1");
    }

    #[test]
    fn receipts_are_for_those_who_ask() {
        let sm = |registered_delivery| Sm { registered_delivery, ..Sm::default() };
        assert!(!is_wanted(&sm(0), MessageState::Delivered));
        assert!(is_wanted(&sm(1), MessageState::Delivered));
        assert!(!is_wanted(&sm(2), MessageState::Delivered));
        assert!(is_wanted(&sm(2), MessageState::Expired));
    }
}
