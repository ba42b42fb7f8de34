//! A cluster of three brokers of which the leading one dies.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sotto_bus::{
    Bus, LeaseKey, LeaseRecord, Leases, NatsConfig, PublishError, Service, StreamReader, Topology,
    topology::{self, Cell, ClusterOptions, Copies},
};
use sotto_core::{Lane, Replicas};
use sotto_testkit::{CertFiles, ChaosProxy, NatsOptions, NatsServer, Pki, Routes, eventually, eventually_ok};
use tokio::time::Duration;
use tokio_util::task::TaskTracker;

use crate::cell::{
    Script, Texts, Users, accepted, accounts, options, publisher, quick, route, server_conf, vn,
};

/// Bound of every wait: three servers elect, for each stream and consumer.
const BOUND: Duration = Duration::from_secs(60);

/// Three brokers, and a cell whose streams have a copy on each.
struct Cluster {
    servers: Vec<NatsServer>,
    routes: Routes,
    /// On the way from clients to each broker.
    doors: Vec<ChaosProxy>,
    pki: Pki,
    /// Signs what the brokers show one another.
    brokers: Pki,
    topology: Topology,
    users: Users,
    instances: AtomicU64,
}

impl Cluster {
    async fn start() -> Self {
        let (pki, topology) = (Pki::new(), Topology::embedded().unwrap());
        let users = Users::new(&pki);
        let (routes, brokers) = (Routes::new(3).await, Pki::new());
        let (mut servers, mut doors) = (Vec::new(), Vec::new());
        for index in 0..3 {
            let cluster = member(&routes, index, brokers.service(&format!("route-{index}")));
            let file =
                server_conf(&pki, &topology, &users, cell(), &format!("vn-{index}"), Some(cluster), "");
            let options = NatsOptions { config_file: Some(file), ..NatsOptions::default() };
            let server = NatsServer::start(options).await;
            doors.push(ChaosProxy::start(server.address()).await);
            servers.push(server);
        }
        let instances = AtomicU64::new(0);
        let cluster = Self { servers, routes, doors, pki, brokers, topology, users, instances };
        let provisioner = cluster.bus(Service::Provisioner).await;
        eventually_ok(BOUND, "the streams to be set up", || async {
            topology::apply(&provisioner, &cluster.topology, &accounts()).await
        })
        .await;
        cluster
    }

    fn urls(&self) -> Vec<String> {
        self.doors.iter().map(|door| format!("tls://localhost:{}", door.address().port())).collect()
    }

    fn config(&self, service: Service) -> NatsConfig {
        self.users.config(&self.pki, service, self.urls().join(","))
    }

    /// A connection that may go to any broker.
    async fn bus(&self, service: Service) -> Bus {
        self.connect(&self.config(service), service).await
    }

    async fn connect(&self, config: &NatsConfig, service: Service) -> Bus {
        let instance = self.instances.fetch_add(1, Ordering::Relaxed);
        let options = options(service, instance, cell(), self.topology.clone());
        Bus::connect(config, options).await.unwrap()
    }

    /// One that begins at this broker, and may go on to others.
    async fn bus_from(&self, broker: usize, service: Service) -> Bus {
        let others: Vec<_> = self
            .doors
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != broker)
            .map(|(_, door)| door)
            .collect();
        others.iter().for_each(|door| door.cut());
        let bus = self.bus(service).await;
        others.iter().for_each(|door| door.pass());
        bus
    }

    /// One that knows no other broker.
    async fn bus_of(&self, broker: usize, service: Service) -> Bus {
        let url = self.urls().get(broker).unwrap().clone();
        self.connect(&NatsConfig { url, ..self.config(service) }, service).await
    }
}

fn member(routes: &Routes, index: usize, files: CertFiles) -> ClusterOptions {
    ClusterOptions {
        listen: routes.listen(index),
        routes: routes.of(index),
        ca_file: files.ca,
        cert_file: files.cert,
        key_file: files.key,
    }
}

fn cell() -> Cell {
    Cell { replicas: Replicas::Three, ..vn() }
}

/// The leader of INTAKE in what the cluster says of itself.
fn leader_in(copies: &Copies) -> Option<usize> {
    copies.leaders.get("VN_INTAKE")?.strip_prefix("vn-")?.parse().ok()
}

/// The leader of INTAKE, once every broker has everything.
async fn leader(operator: &Bus) -> usize {
    eventually(BOUND, "three copies", || async {
        topology::copies(operator).await.is_ok_and(|copies| copies.are_whole())
    })
    .await;
    leader_in(&topology::copies(operator).await.unwrap()).unwrap()
}

/// Waits until another broker than this one leads INTAKE.
async fn another_than(operator: &Bus, old: usize) {
    eventually_ok(BOUND, "another leader", async || {
        let copies = topology::copies(operator).await.map_err(|error| error.to_string())?;
        match leader_in(&copies) {
            Some(now) if now != old => Ok(()),
            Some(_) | None => Err(format!("{copies:?}")),
        }
    })
    .await;
}

impl Cluster {
    /// Kills the leader of INTAKE and waits until another has taken over.
    async fn kill_leader(&mut self, operator: &Bus) -> usize {
        let old = leader(operator).await;
        self.servers.get_mut(old).unwrap().kill().await;
        another_than(operator, old).await;
        old
    }
}

#[tokio::test]
async fn a_leader_that_dies_takes_nothing_along() {
    let mut cluster = Cluster::start().await;
    let publisher = publisher(&cluster.bus(Service::Ingress).await);
    let operator = cluster.bus(Service::Operator).await;
    let reader = StreamReader::<Texts>::new(&operator, "INTAKE").unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let writer = {
        let (publisher, sent) = (publisher.clone(), Arc::clone(&sent));
        TaskTracker::new().spawn(async move {
            for n in 0..400 {
                publisher.publish(&accepted(Lane::Otp), n.to_string()).await.unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    eventually(BOUND, "traffic", || async { sent.load(Ordering::Relaxed) > 50 }).await;
    let killed = cluster.kill_leader(&operator).await;
    eventually(BOUND, "every publish to be acknowledged", || async { writer.is_finished() }).await;
    writer.await.unwrap();
    cluster.servers.get_mut(killed).unwrap().restart().await;

    let mut reading = reader.read(1, reader.state().await.unwrap().last);
    let mut stored = Vec::new();
    while let Some(batch) = reading.next().await.unwrap() {
        stored.extend(batch.batch.texts);
    }
    let expected: Vec<_> = (0..400).map(|n| n.to_string()).collect();
    assert_eq!(stored, expected, "each is stored once, in order");

    // The consumers have leaders too: the worker goes on when they die.
    let script = Script::all_done();
    let worker = route(&cluster.bus(Service::Routing).await, &script, quick()).await;
    eventually(BOUND, "work", || async { !script.given().is_empty() }).await;
    let lost = cluster.kill_leader(&operator).await;
    for n in 400..420 {
        publisher.publish(&accepted(Lane::Otp), n.to_string()).await.unwrap();
    }
    let all = || async { script.items().into_iter().collect::<HashSet<_>>().len() == 420 };
    eventually(BOUND, "everything to be handled", all).await;
    eventually(BOUND, "the stream to be empty", || async {
        reader.state().await.is_ok_and(|state| state.messages == 0)
    })
    .await;
    assert!(worker.stop(BOUND).await);

    // Its disk went with it: it gets everything from the other two.
    let server = cluster.servers.get_mut(lost).unwrap();
    std::fs::remove_dir_all(server.store_dir()).unwrap();
    server.restart().await;
    leader(&operator).await;
}

#[tokio::test]
async fn a_broker_that_is_cut_off_decides_nothing_and_who_is_there_goes_elsewhere() {
    let cluster = Cluster::start().await;
    let operator = cluster.bus(Service::Operator).await;
    let cut_off = leader(&operator).await;
    let stays = cluster.bus_of(cut_off, Service::Ingress).await;
    let moves = cluster.bus_from(cut_off, Service::Ingress).await;
    let (lonely, leases) = (
        cluster.bus_of(cut_off, Service::Operator).await,
        Leases::new(&cluster.bus_of(cut_off, Service::Carrier).await),
    );
    let (account, bind) = (accounts().remove(0), LeaseKey::Bind(1));
    let lease = |holder: &str| LeaseRecord {
        holder: holder.to_owned(),
        ttl: Duration::from_secs(15),
        released: false,
        bound: false,
    };
    let sequence = leases.write(&account, &bind, &lease("old"), 0).await.unwrap();
    publisher(&stays).publish(&accepted(Lane::Otp), "before".to_owned()).await.unwrap();

    // Clients still reach it, and it believes for a while that it decides.
    cluster.routes.cut(cut_off);
    let refused = publisher(&stays).publish(&accepted(Lane::Otp), "refused".to_owned()).await.unwrap_err();
    assert!(
        matches!(refused, PublishError::Unavailable { .. } | PublishError::OutcomeUnknown { .. }),
        "{refused}"
    );
    assert!(leases.write(&account, &bind, &lease("old"), sequence).await.is_err());

    // Whoever may goes to another broker, where what was refused is stored, and a lease is given to somebody else.
    let publisher_that_moves = publisher(&moves);
    for n in 0..20 {
        eventually_ok(BOUND, "a publish by way of another broker", async || {
            publisher_that_moves.publish(&accepted(Lane::Otp), n.to_string()).await
        })
        .await;
    }
    another_than(&operator, cut_off).await;
    let elsewhere = Leases::new(&cluster.bus(Service::Carrier).await);
    // A write whose answer got lost is found by reading.
    eventually_ok(BOUND, "a lease from the others", async || {
        let written = elsewhere.write(&account, &bind, &lease("new"), sequence).await;
        let held = elsewhere.of(&account).await.map_err(|error| error.to_string())?;
        match held.as_slice() {
            [held] if held.record == lease("new") => Ok(()),
            held => Err(format!("{written:?}, {held:?}")),
        }
    })
    .await;
    assert!(leases.write(&account, &bind, &lease("old"), sequence).await.is_err(), "it is another's");

    // Who reads the copy that was cut off does not take its end for the end.
    let all = StreamReader::<Texts>::new(&operator, "INTAKE").unwrap().state().await.unwrap().last;
    let old_copy = StreamReader::<Texts>::new(&lonely, "INTAKE").unwrap();
    let mut reading = old_copy.read_stored(1, all);
    let mut read = 0;
    let broken = loop {
        match reading.next().await {
            Ok(Some(batch)) => read = batch.sequence,
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broken && read < all, "read up to {read} of {all}");

    // It hears the others again, and has what it missed; what it refused is nowhere, or was stored by the others.
    cluster.routes.pass();
    leader(&operator).await;
    assert!(leases.write(&account, &bind, &lease("old"), sequence).await.is_err(), "it is another's");
    let mut reading = old_copy.read(1, all);
    let mut texts = Vec::new();
    while let Some(batch) = reading.next().await.unwrap() {
        texts.extend(batch.batch.texts);
    }
    let mut expected: HashSet<_> = (0..20).map(|n| n.to_string()).collect();
    expected.insert("before".to_owned());
    let found: HashSet<_> = texts.iter().filter(|text| *text != "refused").cloned().collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_broker_that_stands_still_is_left() {
    let cluster = Cluster::start().await;
    let operator = cluster.bus(Service::Operator).await;
    let frozen = leader(&operator).await;
    let publisher = publisher(&cluster.bus_from(frozen, Service::Ingress).await);
    publisher.publish(&accepted(Lane::Otp), "before".to_owned()).await.unwrap();
    let server = cluster.servers.get(frozen).unwrap();
    server.freeze().await;
    eventually_ok(BOUND, "a publish by way of another broker", async || {
        publisher.publish(&accepted(Lane::Otp), "while it stands".to_owned()).await
    })
    .await;
    another_than(&operator, frozen).await;
    server.thaw();
    leader(&operator).await;
}

#[tokio::test]
async fn nobody_but_a_broker_joins_the_cluster() {
    let cluster = Cluster::start().await;
    let operator = cluster.bus(Service::Operator).await;
    leader(&operator).await;
    // With a certificate of the cell, as any service has one.
    let stranger = member(&cluster.routes, 0, cluster.pki.service("carrier"));
    let listen = format!("127.0.0.1:{}", sotto_testkit::free_port());
    let routes = (0..3).map(|index| cluster.routes.listen(index)).collect();
    // It trusts those who do not trust it.
    let stranger = ClusterOptions { listen, routes, ca_file: cluster.brokers.ca(), ..stranger };
    let file =
        server_conf(&cluster.pki, &cluster.topology, &cluster.users, cell(), "vn-9", Some(stranger), "");
    let options = NatsOptions { config_file: Some(file), ..NatsOptions::default() };
    let _stranger = NatsServer::start(options).await;
    eventually(BOUND, "the cluster to refuse it", || async {
        cluster.servers.iter().any(|one| one.log().contains("TLS route handshake error"))
    })
    .await;
    assert!(cluster.servers.iter().all(|one| !one.log().contains("vn-9")));
}
