//! A cell on three brokers, of which one after the other dies, stands still and is cut off from the others while everybody
//! else still reaches it.

use std::{fmt, fs, path::Path, time::Duration};

use sotto_bus::{Bus, Service, topology};
use sotto_core::Replicas;
use sotto_testkit::{
    Routes, eventually, eventually_ok,
    process::{freeze, signal},
};
use tempfile::TempDir;

use super::{Struck, Torture, now, plan::Kind, smsc::WINDOW};
use crate::{
    cell::{BOUND, Cell},
    quarantine::bus_of,
};

/// How many.
const BROKERS: usize = 3;

/// Until each broker has everything again.
const WHOLE: Duration = Duration::from_secs(90);

/// Messages accepted while a broker is missing, at least.
const MESSAGES: usize = 80;

/// What happens to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Harm {
    /// It is killed as it stands.
    Kill,
    /// It stands still.
    Freeze,
    /// Its connections with the others are cut.
    Cut,
    /// Its connections with the others stand, and nothing passes.
    Stall,
}

impl Harm {
    pub(super) const ALL: [Self; 4] = [Self::Kill, Self::Freeze, Self::Cut, Self::Stall];
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Freeze => "stop",
            Self::Cut => "cut off",
            Self::Stall => "half-open to",
        })
    }
}

/// The brokers of a cell, and the ways between them.
pub(crate) struct Brokers {
    routes: Routes,
    operator: Bus,
}

pub(super) async fn routes() -> Routes {
    Routes::new(BROKERS).await
}

/// Has the brokers of a new cell find one another by these ways alone.
pub(super) fn lead(root: &Path, routes: &Routes) {
    for broker in 0..BROKERS {
        let file = root.join(format!("nats/nats-{}.conf", broker + 1));
        let text = fs::read_to_string(&file).unwrap();
        let (before, rest) = text.split_once("  routes: [\n").unwrap();
        let (_, after) = rest.split_once("  ]\n").unwrap();
        let port = format!("127.0.0.1:{}", 6222 + broker);
        assert!(before.contains(&port));
        let before = before.replace(&port, &routes.listen(broker));
        let ways: String = routes.of(broker).iter().map(|way| format!("    \"nats://{way}\"\n")).collect();
        let text = Routes::only_these(&format!("{before}  routes: [\n{ways}  ]\n{after}"));
        fs::write(&file, text).unwrap();
    }
}

impl Brokers {
    pub(super) async fn of(cell: &Cell, routes: Routes) -> Self {
        Self { routes, operator: bus_of(cell, Service::Operator, Replicas::Three).await }
    }

    /// The broker that decides about a stream, counted from 0.
    async fn leader(&self, stream: &str) -> Option<usize> {
        let copies = topology::copies(&self.operator).await.ok()?;
        copies.leaders.get(stream)?.strip_prefix("vn-")?.parse::<usize>().ok()?.checked_sub(1)
    }

    /// Waits until every broker has everything.
    pub(super) async fn whole(&self) {
        eventually_ok(WHOLE, "three copies of everything", || async {
            let copies = topology::copies(&self.operator).await.map_err(|error| error.to_string())?;
            if copies.are_whole() { Ok(()) } else { Err(format!("{copies:?}")) }
        })
        .await;
    }
}

impl Torture {
    /// Harms the broker that decides about a stream, until another does and messages are accepted without it; then it comes
    /// back.
    pub(super) async fn harm(&mut self, harm: Harm, stream: &'static str) {
        let brokers = self.brokers.as_ref().unwrap();
        brokers.whole().await;
        let old = brokers.leader(stream).await.unwrap();
        let process = format!("nats-{}", old + 1);
        let id = self.cell.running(&process).await;
        match harm {
            Harm::Kill => signal(id, "KILL"),
            Harm::Freeze => freeze(id).await,
            Harm::Cut => brokers.routes.cut(old),
            Harm::Stall => brokers.routes.stall(old),
        }
        if harm != Harm::Kill {
            eventually(BOUND, "another leader", || async {
                brokers.leader(stream).await.is_some_and(|now| now != old)
            })
            .await;
        }
        let enough = self.traffic.accepted() + MESSAGES;
        self.traffic.reach(enough).await;
        match harm {
            Harm::Kill => {}
            Harm::Freeze => signal(id, "CONT"),
            Harm::Cut | Harm::Stall => brokers.routes.pass(),
        }
    }
}

/// One harm, that of which the broker itself notices least; the storm knows all.
#[tokio::test]
async fn a_cell_goes_on_without_a_broker_that_is_cut_off_from_the_others() {
    let outside = TempDir::with_prefix("sotto-carrier-").unwrap();
    let routes = Some(routes().await);
    let mut torture = Torture::start_of(&std::env::temp_dir(), outside.path(), None, routes).await;
    let kind = Kind::Broker(Harm::Cut, "VN_EVENTS");
    torture.struck.push(Struck { what: kind.to_string(), at: now(), explains: WINDOW * kind.explains() });
    torture.harm(Harm::Cut, "VN_EVENTS").await;
    torture.cell.wait_until_ready().await;
    // While messages flow a copy is a little behind now and then.
    eventually_ok(WHOLE, "doctor to be content", async || {
        let told = crate::cell::text(&torture.cell.try_run(["doctor"]).await.stdout);
        let content = told.contains("three copies of each stream") && !told.contains("wrong");
        if content { Ok(()) } else { Err(told) }
    })
    .await;
    let mut cell = torture.judge(0, None).await;
    cell.stop().await;
    assert_eq!(cell.json(["audit", "verify"]).await[0]["verified"], true);
}
