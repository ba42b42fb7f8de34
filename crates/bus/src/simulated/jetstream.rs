//! Streams and consumers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};
use sotto_core::{AccountId, Timestamp};
use tokio::time::Instant;

use super::Defect;
use crate::{
    StoredMessage, Topology,
    publish::names,
    topology::{
        Cell, ConsumerSpec, Retention, StreamSpec, TopologyError,
        settings::{self, DUPLICATE_WINDOW_S},
        stream_name,
    },
};

const DUPLICATE_WINDOW: Duration = Duration::from_secs(DUPLICATE_WINDOW_S);

/// When a simulated broker begins.
const BIRTH: Timestamp = Timestamp::from_unix_seconds(1_795_493_815);

pub(super) struct JetStream {
    streams: Vec<Stream>,
    consumers: Vec<Consumer>,
    cell: Cell,
    pub(super) defect: Option<Defect>,
    publishes: u64,
    /// What stands for [`BIRTH`] on this broker's clock.
    born: Instant,
}

struct Stream {
    spec: StreamSpec,
    messages: BTreeMap<u64, Kept>,
    last: u64,
    ids: BTreeMap<String, (u64, Instant)>,
    full: bool,
}

struct Kept {
    at: Timestamp,
    subject: String,
    headers: Option<HeaderMap>,
    payload: Bytes,
}

struct Consumer {
    spec: ConsumerSpec,
    /// The next sequence that was never delivered.
    next: u64,
    pending: BTreeMap<u64, Pending>,
    pulls: VecDeque<Pull>,
    delivered: u64,
}

struct Pending {
    deliveries: u64,
    again_at: Instant,
}

struct Pull {
    inbox: String,
    batch: u64,
    /// None: what is not there now is not waited for.
    until: Option<Instant>,
}

/// Sends to an inbox; false if nobody listens.
type Send<'a> = &'a mut dyn FnMut(&str, Message) -> bool;

/// Whether a subject is one of a pattern with `*` and a last `>`.
pub(super) fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            _ => return false,
        }
    }
}

fn message(subject: &str, payload: Bytes, status: Option<StatusCode>, headers: Option<HeaderMap>) -> Message {
    Message {
        subject: subject.into(),
        reply: None,
        length: payload.len(),
        payload,
        headers,
        status,
        description: None,
    }
}

fn answer(value: &Value) -> Vec<Message> {
    vec![message("_INBOX", Bytes::from(value.to_string()), None, None)]
}

fn refusal(code: u64, err_code: u64, description: &str) -> Vec<Message> {
    answer(&json!({ "error": { "code": code, "err_code": err_code, "description": description } }))
}

impl JetStream {
    pub(super) fn new(
        topology: &Topology,
        cell: &Cell,
        accounts: &[AccountId],
    ) -> Result<Self, TopologyError> {
        let stream =
            |spec| Stream { spec, messages: BTreeMap::new(), last: 0, ids: BTreeMap::new(), full: false };
        let consumer =
            |spec| Consumer { spec, next: 1, pending: BTreeMap::new(), pulls: VecDeque::new(), delivered: 0 };
        Ok(Self {
            streams: topology.streams(cell).into_iter().map(stream).collect(),
            consumers: topology.consumers(cell, accounts)?.into_iter().map(consumer).collect(),
            cell: cell.clone(),
            defect: None,
            publishes: 0,
            born: Instant::now(),
        })
    }

    pub(super) fn drop_pulls(&mut self) {
        self.consumers.iter_mut().for_each(|consumer| consumer.pulls.clear());
    }

    pub(super) fn forget_ids(&mut self) {
        self.streams.iter_mut().for_each(|stream| stream.ids.clear());
    }

    pub(super) fn set_full(&mut self, name: &str, full: bool) {
        let name = stream_name(&self.cell.id, name);
        self.streams.iter_mut().filter(|stream| stream.spec.name == name).for_each(|it| it.full = full);
    }

    pub(super) fn stored(&self, name: &str) -> Vec<StoredMessage> {
        let name = stream_name(&self.cell.id, name);
        let streams = self.streams.iter().filter(|stream| stream.spec.name == name);
        let messages = streams.flat_map(|stream| &stream.messages);
        let stored = |(sequence, kept): (&u64, &Kept)| StoredMessage {
            sequence: *sequence,
            stored_at: kept.at,
            subject: kept.subject.clone(),
            payload: kept.payload.clone(),
        };
        messages.map(stored).collect()
    }

    /// Takes one message; returns what is answered at once.
    pub(super) fn take(
        &mut self,
        now: Instant,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: &Bytes,
        reply: Option<&str>,
    ) -> Vec<Message> {
        if let Some(api) = subject.strip_prefix("$JS.API.") {
            return self.api(now, api, payload, reply);
        }
        if let Some(of) = subject.strip_prefix("$JS.ACK.") {
            self.acknowledge(now, of, payload);
            return vec![message("_INBOX", Bytes::new(), None, None)];
        }
        self.store(now, subject, headers, payload)
    }

    fn api(&mut self, now: Instant, api: &str, payload: &Bytes, reply: Option<&str>) -> Vec<Message> {
        let request: Value = serde_json::from_slice(payload).unwrap_or_default();
        if let Some(names) = api.strip_prefix("CONSUMER.MSG.NEXT.") {
            let number = |name: &str| request.get(name).and_then(Value::as_u64);
            let waits = request.get("no_wait").and_then(Value::as_bool) != Some(true);
            let until = number("expires").filter(|_| waits).map(|nanos| now + Duration::from_nanos(nanos));
            if let (Some(consumer), Some(inbox)) = (self.consumer(names), reply) {
                let pull = Pull { inbox: inbox.to_owned(), batch: number("batch").unwrap_or(1), until };
                consumer.pulls.push_back(pull);
            }
            return Vec::new();
        }
        if let Some(names) = api.strip_prefix("CONSUMER.INFO.") {
            let replicas = self.cell.replicas;
            let Some(consumer) = self.consumer(names) else {
                return refusal(404, 10_014, "consumer not found");
            };
            let floor = consumer.pending.keys().next().map_or(consumer.next - 1, |first| first - 1);
            return answer(&json!({
                "config": settings::consumer(&consumer.spec, replicas),
                "ack_floor": { "stream_seq": floor },
                "delivered": { "stream_seq": consumer.next - 1 },
            }));
        }
        let (kind, name) = api.rsplit_once('.').unwrap_or((api, ""));
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.spec.name == name) else {
            return refusal(404, 10_059, "stream not found");
        };
        match kind {
            "STREAM.INFO" => answer(&stream.info()),
            "DIRECT.GET" => stream.get(&request),
            "STREAM.MSG.DELETE" => stream.delete(&request),
            _ => Vec::new(),
        }
    }

    fn consumer(&mut self, names: &str) -> Option<&mut Consumer> {
        let (stream, name) = names.split_once('.')?;
        self.consumers.iter_mut().find(|it| it.spec.stream == stream && it.spec.name == name)
    }

    fn store(
        &mut self,
        now: Instant,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: &Bytes,
    ) -> Vec<Message> {
        self.publishes += 1;
        let lies = match self.defect {
            Some(Defect::AnswersUnstored(every)) => self.publishes.is_multiple_of(every.max(1)),
            None => false,
        };
        let takes = |stream: &&mut Stream| stream.spec.subjects.iter().any(|it| matches(it, subject));
        let Some(stream) = self.streams.iter_mut().find(takes) else { return Vec::new() };
        let header =
            |name: &str| headers.and_then(|headers| headers.get(name)).map(|it| it.as_str().to_owned());
        stream.ids.retain(|_, (_, at)| now.duration_since(*at) < DUPLICATE_WINDOW);
        let last =
            stream.messages.iter().rev().find(|(_, kept)| kept.subject == subject).map_or(0, |it| *it.0);
        // Before the ids: a repeat of what was stored finds its own sequence, and is a conflict.
        if header(names::EXPECTED).is_some_and(|expected| expected != last.to_string()) {
            return refusal(400, 10_071, "wrong last sequence");
        }
        let id = header(names::MESSAGE_ID);
        if let Some((sequence, _)) = id.as_ref().and_then(|id| stream.ids.get(id)) {
            return answer(&json!({ "stream": stream.spec.name, "seq": sequence, "duplicate": true }));
        }
        if let Some(why) = stream.refuses(subject, payload.len()) {
            return refusal(503, 10_077, why);
        }
        if lies {
            return answer(&json!({ "stream": stream.spec.name, "seq": stream.last + 1 }));
        }
        stream.last += 1;
        if stream.spec.retention == Retention::Latest {
            stream.messages.retain(|_, kept| kept.subject != subject);
        }
        let at = BIRTH.plus(now.duration_since(self.born));
        let kept =
            Kept { at, subject: subject.to_owned(), headers: headers.cloned(), payload: payload.clone() };
        stream.messages.insert(stream.last, kept);
        if let Some(id) = id {
            stream.ids.insert(id, (stream.last, now));
        }
        answer(&json!({ "stream": stream.spec.name, "seq": stream.last }))
    }

    /// `<stream>.<consumer>.<deliveries>.<stream sequence>.…`: the deliveries do not matter.
    fn acknowledge(&mut self, now: Instant, of: &str, payload: &Bytes) {
        let mut tokens = of.split('.');
        let (Some(stream), Some(name)) = (tokens.next(), tokens.next()) else { return };
        let Some(sequence) = tokens.nth(1).and_then(|sequence| sequence.parse().ok()) else { return };
        let Some(consumer) = self.consumer(&format!("{stream}.{name}")) else { return };
        let Some(pending) = consumer.pending.get_mut(&sequence) else { return };
        if payload.starts_with(b"+WPI") {
            pending.again_at = now + Duration::from_secs(consumer.spec.ack_wait_s);
        } else if let Some(delay) = payload.strip_prefix(b"-NAK") {
            // Without a delay at once.
            let delay: Value = serde_json::from_slice(delay).unwrap_or_default();
            let nanos = delay.get("delay").and_then(Value::as_u64).unwrap_or(0);
            pending.again_at = now + Duration::from_nanos(nanos);
        } else {
            consumer.pending.remove(&sequence);
            let streams = self.streams.iter_mut().filter(|it| it.spec.name == stream);
            for stream in streams.filter(|stream| stream.spec.retention == Retention::WorkQueue) {
                stream.messages.remove(&sequence);
            }
        }
    }

    /// Delivers. Returns when there may be more to do.
    pub(super) fn pump(&mut self, now: Instant, send: Send<'_>) -> Option<Instant> {
        let Self { streams, consumers, .. } = self;
        let next = consumers.iter_mut().filter_map(|consumer| {
            let stream = streams.iter().find(|stream| stream.spec.name == consumer.spec.stream)?;
            consumer.pump(now, stream, send)
        });
        next.min()
    }
}

impl Stream {
    fn bytes(&self) -> usize {
        self.messages.values().map(|kept| kept.payload.len()).sum()
    }

    fn refuses(&self, subject: &str, size: usize) -> Option<&'static str> {
        if self.spec.retention == Retention::Latest {
            return None;
        }
        let held = |most: &i64| {
            let held = self.messages.values().filter(|kept| kept.subject == subject).count();
            i64::try_from(held).unwrap_or(i64::MAX) >= *most
        };
        if self.spec.max_messages_per_subject.as_ref().is_some_and(held) {
            return Some("maximum messages per subject exceeded");
        }
        let bytes = i64::try_from(self.bytes() + size).unwrap_or(i64::MAX);
        (self.full || bytes > self.spec.max_bytes).then_some("maximum bytes exceeded")
    }

    fn first(&self) -> u64 {
        self.messages.keys().next().map_or(self.last + 1, |first| *first)
    }

    fn info(&self) -> Value {
        let mut subjects: BTreeMap<&str, u64> = BTreeMap::new();
        for kept in self.messages.values() {
            *subjects.entry(&kept.subject).or_default() += 1;
        }
        json!({
            "config": settings::stream(&self.spec),
            "state": {
                "messages": self.messages.len(),
                "bytes": self.bytes(),
                "first_seq": self.first(),
                "last_seq": self.last,
                "subjects": subjects,
            },
        })
    }

    /// Deletes one message by its sequence.
    fn delete(&mut self, request: &Value) -> Vec<Message> {
        let gone = request.get("seq").and_then(Value::as_u64).and_then(|seq| self.messages.remove(&seq));
        match gone {
            Some(_) => answer(&json!({ "success": true })),
            None => refusal(400, 10_057, "message not found"),
        }
    }

    /// Direct get (ADR-31): one, a batch and its end mark, or the latest of each subject and that mark.
    fn get(&self, request: &Value) -> Vec<Message> {
        let number = |name: &str| request.get(name).and_then(Value::as_u64);
        let latest = request.get("multi_last").and_then(Value::as_array);
        let found: Vec<_> = if let Some(patterns) = latest {
            let wanted = |subject: &str| {
                patterns.iter().filter_map(Value::as_str).any(|pattern| matches(pattern, subject))
            };
            let mut latest = BTreeMap::new();
            for (sequence, kept) in self.messages.iter().filter(|(_, kept)| wanted(&kept.subject)) {
                latest.insert(&kept.subject, *sequence);
            }
            let latest: BTreeSet<_> = latest.into_values().collect();
            self.messages.iter().filter(|(sequence, _)| latest.contains(sequence)).collect()
        } else {
            let wanted = request.get("next_by_subj").and_then(Value::as_str).unwrap_or(">");
            let from = number("seq").unwrap_or(1);
            let most = usize::try_from(number("batch").unwrap_or(1)).unwrap_or(usize::MAX);
            self.messages
                .range(from..)
                .filter(|(_, kept)| matches(wanted, &kept.subject))
                .take(most)
                .collect()
        };
        let mut previous = 0;
        let mut messages: Vec<_> = found
            .into_iter()
            .map(|(sequence, kept)| {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Sequence", sequence.to_string().as_str());
                headers.insert("Nats-Subject", kept.subject.as_str());
                headers.insert("Nats-Time-Stamp", kept.at.to_string().as_str());
                headers.insert("Nats-Last-Sequence", previous.to_string().as_str());
                previous = *sequence;
                message("_INBOX", kept.payload.clone(), None, Some(headers))
            })
            .collect();
        if messages.is_empty() {
            return vec![message("_INBOX", Bytes::new(), Some(StatusCode::NOT_FOUND), None)];
        }
        if latest.is_some() || number("batch").is_some() {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Last-Sequence", previous.to_string().as_str());
            let end = StatusCode::from_u16(204).ok();
            messages.push(message("_INBOX", Bytes::new(), end, Some(headers)));
        }
        messages
    }
}

impl Consumer {
    fn pump(&mut self, now: Instant, stream: &Stream, send: Send<'_>) -> Option<Instant> {
        let ack_wait = Duration::from_secs(self.spec.ack_wait_s);
        // What left the stream otherwise is not waited for.
        self.pending.retain(|sequence, _| stream.messages.contains_key(sequence));
        let over = |pull: &Pull| pull.until.is_some_and(|until| until <= now);
        for pull in self.pulls.iter().filter(|pull| over(pull)) {
            send(&pull.inbox, status(&pull.inbox, StatusCode::TIMEOUT, "Request Timeout"));
        }
        self.pulls.retain(|pull| !over(pull));
        while let Some(pull) = self.pulls.front_mut() {
            let busy = i64::try_from(self.pending.len()).unwrap_or(i64::MAX) >= self.spec.max_ack_pending;
            let again = self.pending.iter().find(|(_, pending)| pending.again_at <= now).map(|it| *it.0);
            let filters = &self.spec.filters;
            let wanted = |kept: &Kept| filters.iter().any(|filter| matches(filter, &kept.subject));
            let new = stream.messages.range(self.next..).find(|(_, kept)| wanted(kept)).map(|it| *it.0);
            let Some(sequence) = again.or_else(|| new.filter(|_| !busy)) else {
                // While too much is unacknowledged a pull is kept, also one that does not wait.
                if pull.until.is_none() && !(busy && new.is_some()) {
                    let Some(pull) = self.pulls.pop_front() else { break };
                    send(&pull.inbox, status(&pull.inbox, StatusCode::NOT_FOUND, "No Messages"));
                    continue;
                }
                break;
            };
            let Some(kept) = stream.messages.get(&sequence) else { break };
            let deliveries = self.pending.get(&sequence).map_or(0, |pending| pending.deliveries) + 1;
            let mut delivered = message(&kept.subject, kept.payload.clone(), None, kept.headers.clone());
            let ConsumerSpec { stream: of, name, .. } = &self.spec;
            let waiting = stream.messages.range(sequence + 1..).filter(|(_, kept)| wanted(kept)).count();
            let number = self.delivered + 1;
            let reply = format!("$JS.ACK.{of}.{name}.{deliveries}.{sequence}.{number}.0.{waiting}");
            delivered.reply = Some(reply.into());
            if !send(&pull.inbox, delivered) {
                self.pulls.pop_front();
                continue;
            }
            self.delivered = number;
            self.next = self.next.max(sequence + 1);
            self.pending.insert(sequence, Pending { deliveries, again_at: now + ack_wait });
            pull.batch = pull.batch.saturating_sub(1);
            if pull.batch == 0 {
                self.pulls.pop_front();
            }
        }
        if self.pulls.is_empty() {
            return None;
        }
        let over = self.pulls.iter().filter_map(|pull| pull.until);
        over.chain(self.pending.values().map(|pending| pending.again_at)).min()
    }
}

fn status(inbox: &str, status: StatusCode, words: &str) -> Message {
    Message { description: Some(words.to_owned()), ..message(inbox, Bytes::new(), Some(status), None) }
}
