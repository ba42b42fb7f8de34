//! Clients of tenants: they may ask, hear their own answers, and reach nothing else.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use sotto_bus::{Bus, ClientConnection, ClientIdentity, Request, Requests, Service, SubmitError, Topology};
use sotto_testkit::{NatsOptions, NatsServer, Pki};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    cell::{BOUND, CLIENTS, TestCell, Users, client_config, options, raw, server_conf, vn},
    permissions::{check, inside},
};

/// What the client `shop` may publish on.
const SUBMIT: &str = "sotto.v1.vn.client.acme.submit";

async fn client(cell: &TestCell, name: &str) -> ClientConnection {
    let (_, tenant) = CLIENTS.into_iter().find(|(client, _)| *client == name).unwrap();
    let identity = ClientIdentity { cell: vn().id, tenant: tenant.parse().unwrap(), client: name.to_owned() };
    ClientConnection::connect(&cell.client_config(name), identity).await.unwrap()
}

/// Answers what comes with the tenant and the request, until it is dropped; tells who answered.
async fn answer(bus: &Bus, told: mpsc::UnboundedSender<(String, Bytes)>) -> JoinSet<()> {
    let mut requests = Requests::open(bus).await.unwrap();
    let name = bus.instance().to_owned();
    let mut answering = JoinSet::new();
    answering.spawn(async move {
        while let Some(Request { tenant, payload, answer }) = requests.next().await {
            let _nobody_counts = told.send((name.clone(), payload.clone()));
            answer.send([tenant.as_str().as_bytes(), b": ", payload.as_ref()].concat().into()).await;
        }
    });
    answering
}

/// Asks until somebody answers: a subscription takes a moment to be known to the broker.
async fn ask(client: &ClientConnection, request: &'static [u8]) -> Bytes {
    sotto_testkit::eventually_ok(BOUND, "an answer", async || {
        client.submit(request.into(), BOUND).await.map_err(|error| error.to_string())
    })
    .await
}

#[tokio::test]
async fn each_request_is_answered_once_by_one_of_those_who_share_them() {
    let cell = TestCell::start().await;
    let (told, mut asked) = mpsc::unbounded_channel();
    let buses = [cell.bus(Service::Ingress).await, cell.bus(Service::Ingress).await];
    let mut answering = Vec::new();
    for bus in &buses {
        answering.push(answer(bus, told.clone()).await);
    }
    let (shop, rival) = (client(&cell, "shop").await, client(&cell, "rival").await);
    assert_eq!(ask(&shop, b"hello").await.as_ref(), b"acme: hello");
    assert_eq!(ask(&rival, b"hello").await.as_ref(), b"zanzibar: hello");
    asked.recv().await.unwrap();
    asked.recv().await.unwrap();
    let mut answered = std::collections::BTreeSet::new();
    // Which of the two the broker chooses is chance; that one of them gets none of 200 is not.
    for n in 0..200_u8 {
        let request = Bytes::from(vec![n]);
        let heard = shop.submit(request.clone(), BOUND).await.unwrap();
        assert_eq!(heard, [b"acme: ".as_slice(), &request].concat());
        let (who, payload) = asked.recv().await.unwrap();
        assert_eq!(payload, request);
        answered.insert(who);
    }
    assert!(asked.try_recv().is_err(), "a request was taken twice");
    assert_eq!(answered.len(), 2);
}

#[tokio::test]
async fn who_asks_while_nobody_answers_is_told_at_once() {
    let cell = TestCell::start().await;
    let shop = client(&cell, "shop").await;
    // Far below the patience: the broker says so, nobody waits for it.
    let asked = tokio::time::timeout(BOUND, shop.submit(b"hello".as_slice().into(), BOUND * 10)).await;
    assert_eq!(asked.unwrap(), Err(SubmitError::NobodyAnswers));
    let much = Bytes::from(vec![0; sotto_bus::topology::MAX_PAYLOAD + 1]);
    assert_eq!(shop.submit(much, BOUND).await, Err(SubmitError::TooLarge));
    // Somebody takes it and never answers.
    let bus = cell.bus(Service::Ingress).await;
    let mut requests = Requests::open(&bus).await.unwrap();
    let silent = async {
        let taken = requests.next().await.unwrap();
        assert!(taken.answer.is_wanted());
        std::future::pending::<()>().await;
    };
    let asking = async {
        loop {
            match shop.submit(b"hello".as_slice().into(), Duration::from_millis(300)).await {
                Err(SubmitError::NobodyAnswers) => {}
                other => break other,
            }
        }
    };
    tokio::select! {
        () = silent => {}
        heard = asking => assert_eq!(heard, Err(SubmitError::InDoubt)),
    }
}

#[tokio::test]
async fn what_had_come_before_the_close_is_still_taken() {
    let cell = TestCell::start().await;
    let bus = cell.bus(Service::Ingress).await;
    let mut requests = Requests::open(&bus).await.unwrap();
    let mut raw = raw(cell.client_config("shop"), "shop").await;
    let probes = async {
        let mut now = tokio::time::interval(Duration::from_millis(20));
        loop {
            now.tick().await;
            raw.client.publish(SUBMIT, "probe".into()).await.unwrap();
        }
    };
    let first = tokio::select! {
        first = requests.next() => first.unwrap(),
        () = probes => unreachable!("it never ends"),
    };
    assert!(!first.answer.is_wanted(), "it named no inbox");
    for n in 0..50_u8 {
        raw.client.publish(SUBMIT, vec![n].into()).await.unwrap();
    }
    // The broker answers in order: when it refuses this, it has passed on all that came before.
    raw.client.publish("fence", "".into()).await.unwrap();
    raw.refused.recv().await.unwrap();
    requests.close().await;
    let mut taken = Vec::new();
    while let Some(request) = requests.next().await {
        taken.push(request.payload);
    }
    taken.retain(|payload| payload != "probe");
    assert_eq!(taken, (0..50_u8).map(|n| Bytes::from(vec![n])).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_reaches_nothing_else() {
    let cell = TestCell::start().await;
    let mut raw = raw(cell.client_config("shop"), "shop").await;
    let (mut wrong, mut allowed) = (Vec::new(), 0);
    let mut publish = vec![
        (SUBMIT.to_owned(), true),
        ("sotto.v1.vn.client.zanzibar.submit".to_owned(), false),
        ("sotto.v1.vn.client.acme.submit.more".to_owned(), false),
        ("sotto.v1.vn.client.acme".to_owned(), false),
        ("sotto.v1.de.client.acme.submit".to_owned(), false),
        ("_INBOX.shop.x".to_owned(), false),
        ("_INBOX.rival.x".to_owned(), false),
        ("_INBOX.ingress.t.1".to_owned(), false),
        ("_R_.x.y".to_owned(), false),
        ("$JS.API.INFO".to_owned(), false),
        ("$SYS.REQ.SERVER.PING".to_owned(), false),
        ("$SYS.REQ.USER.INFO".to_owned(), false),
    ];
    publish.extend(inside().map(|subject| (subject, false)));
    for group in publish.chunks(20) {
        for (subject, _) in group {
            raw.client.publish_with_reply(subject.clone(), "_INBOX.nobody", "{}".into()).await.unwrap();
        }
        raw.client.publish("fence", "".into()).await.unwrap();
        check("shop", "publish", group, &mut raw, &mut wrong, &mut allowed).await;
    }
    let mut subscribe: Vec<_> =
        [">", "*", "sotto.>", "_INBOX.>", "_INBOX.*.>", "_INBOX.rival.>", "_R_.>", "$JS.>", "$SYS.>"]
            .map(|subject| (subject.to_owned(), false))
            .to_vec();
    subscribe.push((SUBMIT.to_owned(), false));
    subscribe.push(("sotto.v1.vn.client.*.submit".to_owned(), false));
    subscribe.push(("_INBOX.shop.x.*".to_owned(), true));
    subscribe.extend(inside().map(|subject| (subject, false)));
    let mut open = Vec::new();
    for group in subscribe.chunks(20) {
        for (subject, _) in group {
            open.push(raw.client.subscribe(subject.clone()).await.unwrap());
        }
        raw.client.publish("fence", "".into()).await.unwrap();
        check("shop", "subscribe", group, &mut raw, &mut wrong, &mut allowed).await;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(allowed, 2, "its tenant's subject and its own inboxes");
}

/// Whatever a client names as its inbox, an answer reaches no subject of the cell.
#[tokio::test]
async fn an_answer_cannot_be_aimed_at_the_cell() {
    let cell = TestCell::start().await;
    let bus = cell.bus(Service::Ingress).await;
    let (told, mut asked) = mpsc::unbounded_channel();
    let _answering = answer(&bus, told).await;
    let shop = client(&cell, "shop").await;
    ask(&shop, b"hello").await;
    asked.recv().await.unwrap();
    let raw = raw(cell.client_config("shop"), "shop").await;
    for inbox in [
        "sotto.v1.vn.event.0",
        "sotto.v1.vn.accepted.otp.0",
        "sotto.v1.vn.quarantine.accepted",
        "_INBOX.rival.x",
    ] {
        raw.client.publish_with_reply(SUBMIT, inbox, "aimed".into()).await.unwrap();
        asked.recv().await.unwrap();
    }
    // Answers go out in order: this one comes after them.
    ask(&shop, b"done").await;
    for stream in ["EVENTS", "INTAKE", "QUARANTINE"] {
        assert_eq!(cell.messages(stream).await, 0, "{stream}");
    }
    assert_eq!(bus.state().borrow().refusals, 0);
    drop(shop);
}

#[tokio::test]
async fn clients_do_not_take_the_connections_of_services() {
    let pki = Pki::new();
    let topology = Topology::embedded().unwrap();
    let users = Users::new(&pki);
    let file = server_conf(&pki, &topology, &users, vn(), "vn-1", None, "");
    let text = std::fs::read_to_string(&file).unwrap();
    // Half of all connections, and here one of two.
    for (told, few) in [
        ("\nmax_connections: 1024\n", "\nmax_connections: 2\n"),
        (" max_connections: 512\n", " max_connections: 1\n"),
    ] {
        assert_eq!(text.matches(told).count(), 1, "{told}");
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace(told, few)).unwrap();
    }
    let server = NatsServer::start(NatsOptions { config_file: Some(file), ..NatsOptions::default() }).await;
    let connect = async |name: &str| {
        let identity =
            ClientIdentity { cell: vn().id, tenant: "acme".parse().unwrap(), client: name.to_owned() };
        ClientConnection::connect(&client_config(&pki, name, server.tls_url()), identity).await
    };
    let _shop = connect("shop").await.unwrap();
    assert!(connect("rival").await.is_err(), "clients have one connection together");
    let options = options(Service::Ingress, 0, vn(), topology);
    let config = users.config(&pki, Service::Ingress, server.tls_url());
    Bus::connect(&config, options).await.unwrap();
}

#[tokio::test]
async fn a_client_does_not_hear_answers_to_another() {
    let cell = TestCell::start().await;
    let bus = cell.bus(Service::Ingress).await;
    let (told, _asked) = mpsc::unbounded_channel();
    let _answering = answer(&bus, told).await;
    let mut rival = raw(cell.client_config("rival"), "rival").await;
    let mut ears = Vec::new();
    for subject in [">", "_INBOX.>", "_INBOX.shop.>", "_R_.>", "sotto.>"] {
        ears.push(rival.client.subscribe(subject).await.unwrap());
        rival.refused.recv().await.unwrap();
    }
    let shop = client(&cell, "shop").await;
    ask(&shop, b"hello").await;
    rival.client.flush().await.unwrap();
    for ear in &mut ears {
        assert!(futures::FutureExt::now_or_never(ear.next()).flatten().is_none());
    }
}
