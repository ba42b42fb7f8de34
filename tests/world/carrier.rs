//! A carrier: our server side of SMPP over a pipe in memory. It counts every part that it takes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sotto_smpp::{
    COctets, CommandStatus, Link, Responder, Session, SessionOptions, Sm, pdu::esm_class, receipt::TextForm,
    server,
};
use tokio::{io::DuplexStream, task::JoinSet};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mood {
    Takes,
    /// Takes, and sends the receipt before its answer.
    ReceiptFirst,
    /// Is busy.
    Refuses,
    /// Takes and does not answer.
    Silent,
    /// Takes, and answers when it is in another mood.
    Slow,
    /// Takes, and cuts the link instead of an answer.
    Cuts,
}

/// A part as the carrier sees it: the recipient, of whom there is one for each message, and which part it is.
pub(crate) type Part = (String, u8);

struct Taken {
    part: Part,
    /// Whether a receipt was taken from it.
    receipted: bool,
}

struct Shared {
    mood: Mutex<Mood>,
    taken: Mutex<BTreeMap<u64, Taken>>,
    held: Mutex<Vec<(Responder, u64)>>,
    links: Mutex<Vec<Link<()>>>,
    name: &'static str,
}

pub(crate) struct Carrier {
    shared: Arc<Shared>,
    sessions: JoinSet<()>,
}

impl Carrier {
    pub(crate) fn new(name: &'static str) -> Self {
        let shared = Shared {
            mood: Mutex::new(Mood::Takes),
            taken: Mutex::default(),
            held: Mutex::default(),
            links: Mutex::default(),
            name,
        };
        Self { shared: Arc::new(shared), sessions: JoinSet::new() }
    }

    /// Serves one more connection.
    pub(crate) fn accept(&mut self, io: DuplexStream) {
        self.sessions.spawn(serve(io, Arc::clone(&self.shared)));
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
        if mood != Mood::Slow {
            for (responder, id) in self.shared.held.lock().unwrap().drain(..) {
                responder.respond_with(CommandStatus::ESME_ROK, COctets::from(self.shared.id(id)));
            }
        }
    }

    /// Cuts every link.
    pub(crate) fn cut(&self) {
        self.shared.links.lock().unwrap().drain(..).for_each(|link| link.abort());
    }

    /// Every part that it took, as often as it took it.
    pub(crate) fn taken(&self) -> Vec<Part> {
        self.shared.taken.lock().unwrap().values().map(|taken| taken.part.clone()).collect()
    }

    /// Parts of which a receipt was answered with OK.
    pub(crate) fn receipted(&self) -> Vec<Part> {
        let taken = self.shared.taken.lock().unwrap();
        taken.values().filter(|taken| taken.receipted).map(|taken| taken.part.clone()).collect()
    }

    /// Sends the receipts that are missing; those that are not taken are sent again the next time. `again`: those that were
    /// taken too.
    pub(crate) fn send_receipts(&mut self, again: bool) {
        let shared = Arc::clone(&self.shared);
        self.sessions.spawn(async move {
            let wanted: Vec<u64> = {
                let taken = shared.taken.lock().unwrap();
                taken.iter().filter(|(_, it)| again || !it.receipted).map(|(id, _)| *id).collect()
            };
            for id in wanted {
                let links = shared.links.lock().unwrap().clone();
                let Some(link) = links.iter().rev().find(|link| !link.is_closed()) else { return };
                shared.receipt(link, id).await;
            }
        });
    }
}

impl Shared {
    fn id(&self, number: u64) -> String {
        format!("{}{number}", self.name)
    }

    async fn receipt(&self, link: &Link<()>, number: u64) {
        let (id, time) = (self.id(number), "2611240415");
        let form = TextForm { id: &id, stat: "DELIVRD", submitted: time, done: time, err: "000" };
        let sm = Sm {
            esm_class: esm_class::RECEIPT,
            short_message: Bytes::from(form.to_string()),
            ..Sm::default()
        };
        let Ok(permit) = link.reserve().await else { return };
        let Ok(pending) = link.send(permit, Box::new(sm), ()) else { return };
        if pending.await.is_ok_and(|response| response.status.is_ok())
            && let Some(taken) = self.taken.lock().unwrap().get_mut(&number)
        {
            taken.receipted = true;
        }
    }

    /// Takes a part, unless it refuses.
    fn take(&self, sm: &Sm, mood: Mood) -> Option<u64> {
        if mood == Mood::Refuses {
            return None;
        }
        let (header, _) = sm.split_header();
        let part = (sm.destination.value.as_str()?.to_owned(), header.last().copied().unwrap_or(1));
        let mut taken = self.taken.lock().unwrap();
        let number = u64::try_from(taken.len()).unwrap();
        taken.insert(number, Taken { part, receipted: false });
        Some(number)
    }
}

async fn serve(io: DuplexStream, shared: Arc<Shared>) {
    let options = SessionOptions { window: 100, incoming_window: 1_000, ..SessionOptions::default() };
    let Ok(request) = server::accept(io, options).await else { return };
    let Session { link, mut incoming, driver, late: _ } = request.accept::<()>(&"carrier".into());
    shared.links.lock().unwrap().push(link.clone());
    let take = async {
        while let Some((sm, responder)) = incoming.recv().await {
            let mood = *shared.mood.lock().unwrap();
            let Some(id) = shared.take(&sm, mood) else {
                responder.respond(CommandStatus::ESME_RTHROTTLED);
                continue;
            };
            match mood {
                Mood::Takes | Mood::Refuses => {
                    responder.respond_with(CommandStatus::ESME_ROK, COctets::from(shared.id(id)));
                }
                Mood::ReceiptFirst => {
                    shared.receipt(&link, id).await;
                    responder.respond_with(CommandStatus::ESME_ROK, COctets::from(shared.id(id)));
                }
                Mood::Silent => responder.forget(),
                Mood::Slow => shared.held.lock().unwrap().push((responder, id)),
                Mood::Cuts => {
                    responder.forget();
                    link.abort();
                }
            }
        }
    };
    tokio::join!(driver, take);
}
