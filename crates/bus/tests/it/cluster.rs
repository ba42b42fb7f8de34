//! A cluster of three brokers of which the leading one dies.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::Value;
use sotto_bus::{
    Bus, NatsConfig, Service, StreamReader, Topology,
    topology::{self, Cell},
};
use sotto_core::Lane;
use sotto_testkit::{NatsOptions, NatsServer, Pki, eventually, eventually_ok, nats::cluster_sections};
use tokio::time::Duration;
use tokio_util::task::TaskTracker;

use crate::cell::{
    Raw, Script, Texts, Users, accepted, accounts, options, publisher, quick, raw, route, server_conf, vn,
};

/// Bound of every wait: three servers elect, for each stream and consumer.
const BOUND: Duration = Duration::from_secs(60);

/// Three brokers, and a cell whose streams have a copy on each.
struct Cluster {
    servers: Vec<NatsServer>,
    pki: Pki,
    topology: Topology,
    users: Users,
    instances: AtomicU64,
    operator: Raw,
}

impl Cluster {
    async fn start() -> Self {
        let (pki, topology) = (Pki::new(), Topology::embedded().unwrap());
        let users = Users::new(&pki);
        let mut servers = Vec::new();
        for (index, section) in cluster_sections(3).into_iter().enumerate() {
            let file = server_conf(&pki, &topology, &users, cell(), &format!("vn-{index}"), &section);
            let options = NatsOptions { config_file: Some(file), ..NatsOptions::default() };
            servers.push(NatsServer::start(options).await);
        }
        let operator = raw(users.config(&pki, Service::Operator, urls(&servers)), Service::Operator).await;
        let cluster = Self { servers, pki, topology, users, instances: AtomicU64::new(0), operator };
        let provisioner = cluster.bus(Service::Provisioner).await;
        eventually_ok(BOUND, "the streams to be set up", || async {
            topology::apply(&provisioner, &cluster.topology, &accounts()).await
        })
        .await;
        cluster
    }

    fn config(&self, service: Service) -> NatsConfig {
        self.users.config(&self.pki, service, urls(&self.servers))
    }

    async fn bus(&self, service: Service) -> Bus {
        let instance = self.instances.fetch_add(1, Ordering::Relaxed);
        let options = options(service, instance, cell(), self.topology.clone());
        Bus::connect(&self.config(service), options).await.unwrap()
    }

    /// What the cluster says of INTAKE's copies: the leader's index if it has one, and how many others are up to date.
    async fn intake(&self) -> Option<(usize, usize)> {
        let asked = self.operator.client.request("$JS.API.STREAM.INFO.VN_INTAKE", "".into()).await.ok()?;
        let info: Value = serde_json::from_slice(&asked.payload).unwrap();
        let cluster = info.get("cluster")?;
        let leader = cluster.get("leader")?.as_str()?.strip_prefix("vn-")?.parse().unwrap();
        let copies = cluster.get("replicas")?.as_array()?;
        let current = |copy: &&Value| {
            copy.get("current") == Some(&Value::Bool(true)) && copy.get("offline") != Some(&Value::Bool(true))
        };
        Some((leader, copies.iter().filter(current).count()))
    }

    /// The leader of INTAKE, once both other copies are up to date.
    async fn leader(&self) -> usize {
        eventually(BOUND, "three copies", || async {
            self.intake().await.is_some_and(|(_, current)| current == 2)
        })
        .await;
        self.intake().await.unwrap().0
    }

    /// Kills the leader of INTAKE and waits until another has taken over.
    async fn kill_leader(&mut self) -> usize {
        let old = self.leader().await;
        self.servers.get_mut(old).unwrap().kill().await;
        eventually(BOUND, "another leader", || async {
            self.intake().await.is_some_and(|(leader, _)| leader != old)
        })
        .await;
        old
    }
}

fn cell() -> Cell {
    Cell { replicas: 3, ..vn() }
}

fn urls(servers: &[NatsServer]) -> String {
    servers.iter().map(NatsServer::tls_url).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn a_leader_that_dies_takes_nothing_along() {
    let mut cluster = Cluster::start().await;
    let publisher = publisher(&cluster.bus(Service::Ingress).await);
    let reader = StreamReader::<Texts>::new(&cluster.bus(Service::Operator).await, "INTAKE").unwrap();
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
    let killed = cluster.kill_leader().await;
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
    cluster.kill_leader().await;
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
}
