//! A carrier behind a real socket, by our own server side of SMPP.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use sotto_smpp::{
    Address, COctets, CommandStatus, Link, MessageState, Pdu, Responder, Session, SessionOptions, Sm,
    pdu::{QuerySmResp, esm_class},
    receipt::TextForm,
    server,
    tlv::tag,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// What the carrier does with a submit. It has taken it in every case but a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Ok,
    /// Sends the final receipt first.
    ReceiptFirst,
    Refuse(u32),
    /// Answers when told.
    Hold,
    /// Cuts the connection instead of an answer.
    Cut,
}

type Script = Box<dyn FnMut(usize) -> Reply + Send>;

/// A part as the carrier saw it: whom it is for and which part it is.
pub(crate) type Seen = (String, u8);

struct State {
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    /// By the number of the link, from 0.
    by_link: Mutex<BTreeMap<usize, Vec<Seen>>>,
    references: Mutex<BTreeMap<Seen, Option<u16>>>,
    held: Mutex<Vec<(Responder, String)>>,
    links: Mutex<Vec<Link<()>>>,
    /// What was asked for: id and sender.
    questions: Mutex<Vec<(String, String)>>,
    /// And what is told.
    told: Mutex<(CommandStatus, MessageState)>,
}

pub(crate) struct TestCarrier {
    pub(crate) port: u16,
    state: Arc<State>,
    _serving: JoinSet<()>,
}

impl TestCarrier {
    /// Answers the submits by their number, from 0.
    pub(crate) async fn start(script: impl FnMut(usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            script: Mutex::new(Box::new(script)),
            seen: Mutex::default(),
            by_link: Mutex::default(),
            references: Mutex::default(),
            held: Mutex::default(),
            links: Mutex::default(),
            questions: Mutex::default(),
            told: Mutex::new((CommandStatus::ESME_ROK, MessageState::Enroute)),
        });
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&state)));
        Self { port, state, _serving: serving }
    }

    /// Every part it was sent and did not refuse, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// The same, how often each.
    pub(crate) fn counts(&self) -> BTreeMap<Seen, usize> {
        let mut counts = BTreeMap::new();
        for seen in self.seen() {
            *counts.entry(seen).or_default() += 1;
        }
        counts
    }

    /// The same, by the link it came on.
    pub(crate) fn by_link(&self) -> BTreeMap<usize, Vec<Seen>> {
        self.state.by_link.lock().unwrap().clone()
    }

    /// The questions after parts, in order: id and sender.
    pub(crate) fn questions(&self) -> Vec<(String, String)> {
        self.state.questions.lock().unwrap().clone()
    }

    /// What it tells of every part from now on.
    pub(crate) fn tell(&self, status: CommandStatus, state: MessageState) {
        *self.state.told.lock().unwrap() = (status, state);
    }

    /// Answers all that follows in this way.
    pub(crate) fn reply(&self, reply: Reply) {
        *self.state.script.lock().unwrap() = Box::new(move |_| reply);
    }

    /// Cuts the oldest link.
    pub(crate) fn cut_one(&self) {
        let oldest = self.state.links.lock().unwrap().iter().find(|link| !link.is_closed()).cloned();
        oldest.unwrap().abort();
    }

    pub(crate) fn links(&self) -> usize {
        self.state.links.lock().unwrap().iter().filter(|link| !link.is_closed()).count()
    }

    pub(crate) fn cut(&self) {
        for link in self.state.links.lock().unwrap().drain(..) {
            link.abort();
        }
    }

    /// Answers what it held.
    pub(crate) fn answer_held(&self) {
        for (responder, id) in self.state.held.lock().unwrap().drain(..) {
            responder.respond_with(CommandStatus::ESME_ROK, COctets::from(id));
        }
    }

    /// Sends a receipt and returns whether it was taken.
    pub(crate) async fn receipt(&self, id: &str, stat: &str) -> bool {
        self.deliver(receipt(id, stat)).await
    }

    /// The same of a message to this recipient, with our reference if the carrier repeats it.
    pub(crate) async fn receipt_for(&self, id: &str, to: &str, reference: Option<u16>) -> bool {
        let mut sm = receipt(id, "DELIVRD");
        sm.source.value = COctets::from(to.to_owned());
        if let Some(reference) = reference {
            sm.tlvs = sm.tlvs.with_u16(tag::USER_MESSAGE_REFERENCE, reference);
        }
        self.deliver(sm).await
    }

    /// The references of ours that came with parts, by what it saw.
    pub(crate) fn references(&self) -> BTreeMap<Seen, Option<u16>> {
        self.state.references.lock().unwrap().clone()
    }

    async fn deliver(&self, sm: Sm) -> bool {
        // The newest link on which a carrier may deliver.
        let links = self.state.links.lock().unwrap().clone();
        for link in links.iter().rev().filter(|link| !link.is_closed()) {
            if deliver(link, sm.clone()).await {
                return true;
            }
        }
        false
    }
}

impl TestCarrier {
    /// Sends a message from a handset and returns the answer.
    pub(crate) async fn write(&self, from: &str, to: &str, text: &str) -> Option<CommandStatus> {
        let address = |value: &str| Address { ton: 1, npi: 1, value: COctets::from(value.to_owned()) };
        let sm = Sm {
            source: address(from),
            destination: address(to),
            short_message: Bytes::copy_from_slice(text.as_bytes()),
            ..Sm::default()
        };
        let links = self.state.links.lock().unwrap().clone();
        let link = links.iter().rev().find(|link| !link.is_closed())?;
        let permit = link.reserve().await.ok()?;
        let response = link.send(permit, Box::new(sm), ()).ok()?.await.ok()?;
        Some(response.status)
    }
}

/// The carrier's id for the submit with this number.
pub(crate) fn id_of(number: usize) -> String {
    format!("c{number}")
}

fn receipt(id: &str, stat: &str) -> Sm {
    let time = "2611240415";
    let form = TextForm { id, stat, submitted: time, done: time, err: "000" };
    Sm {
        esm_class: esm_class::RECEIPT,
        short_message: Bytes::from(format!("{form}Ma xac thuc")),
        ..Sm::default()
    }
}

async fn deliver(link: &Link<()>, sm: Sm) -> bool {
    let Ok(permit) = link.reserve().await else { return false };
    let Ok(pending) = link.send(permit, Box::new(sm), ()) else { return false };
    pending.await.is_ok_and(|response| response.status.is_ok())
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut sessions = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        sessions.spawn(serve(stream, Arc::clone(&state)));
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let options = SessionOptions { window: 100, incoming_window: 1_000, ..SessionOptions::default() };
    let Ok(request) = server::accept(stream, options).await else { return };
    let Session { link, mut incoming, driver, late: _ } = request.accept::<()>(&"carrier".into());
    let of_link = {
        let mut links = state.links.lock().unwrap();
        links.push(link.clone());
        links.len()
    };
    let take = async {
        while let Some((sm, responder)) = incoming.recv().await {
            let (number, reply) = decide(&state, &sm, of_link);
            match reply {
                Reply::Ok => responder.respond_with(CommandStatus::ESME_ROK, COctets::from(id_of(number))),
                Reply::ReceiptFirst => {
                    assert!(deliver(&link, receipt(&id_of(number), "DELIVRD")).await);
                    responder.respond_with(CommandStatus::ESME_ROK, COctets::from(id_of(number)));
                }
                Reply::Refuse(status) => responder.respond(CommandStatus(status)),
                Reply::Hold => state.held.lock().unwrap().push((responder, id_of(number))),
                Reply::Cut => {
                    responder.forget();
                    link.abort();
                    return;
                }
            }
        }
    };
    let answer = async {
        let mut requests = link.take_requests().unwrap();
        while let Some((Pdu::QuerySm(question), Some(responder))) = requests.recv().await {
            let text = |octets: &COctets| octets.as_str().unwrap().to_owned();
            let asked = (text(&question.message_id), text(&question.source.value));
            let (status, told) = *state.told.lock().unwrap();
            let answer = QuerySmResp {
                message_id: question.message_id.clone(),
                message_state: told.octet(),
                ..QuerySmResp::default()
            };
            responder.respond_pdu(status, Pdu::QuerySmResp(Box::new(answer)));
            state.questions.lock().unwrap().push(asked);
        }
    };
    tokio::join!(driver, take, answer);
}

fn decide(state: &State, sm: &Sm, of_link: usize) -> (usize, Reply) {
    let (header, _) = sm.split_header();
    let to = sm.destination.value.as_str().unwrap_or_default().to_owned();
    let mut seen = state.seen.lock().unwrap();
    let number = seen.len();
    let reply = (state.script.lock().unwrap())(number);
    if !matches!(reply, Reply::Refuse(_)) {
        let part = (to, header.last().copied().unwrap_or(1));
        let reference = sm.tlvs.user_message_reference();
        state.references.lock().unwrap().insert(part.clone(), reference);
        state.by_link.lock().unwrap().entry(of_link).or_default().push(part.clone());
        seen.push(part);
    }
    (number, reply)
}
