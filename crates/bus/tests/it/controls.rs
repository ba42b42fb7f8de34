//! What operators hold back, heard by everybody concerned.

use std::time::Duration;

use bytes::Bytes;
use sotto_bus::{ControlRegister, ControlWord, Register, Service};
use sotto_core::{
    Restored, Timestamp,
    control::{Control, Controls, Flow, SenderMark, Target},
    restored::Release,
};
use tokio::{task::JoinSet, time::timeout};

use crate::cell::{BOUND, TestCell};

fn release(at: i64, how: Release) -> Control {
    Control::Release { restored: Restored { at: Timestamp::from_unix_millis(at) }, how }
}

fn word(control: Control) -> ControlWord {
    ControlWord { control, at: Timestamp::from_unix_millis(5), reason: "a test".to_owned() }
}

#[tokio::test]
async fn a_word_of_the_connector_is_heard_by_ingress_and_connector() {
    let cell = TestCell::start().await;
    let says = ControlRegister::new(&cell.bus(Service::Carrier).await);
    let mut tasks = JoinSet::new();
    let mut heard = Vec::new();
    for service in [Service::Ingress, Service::Carrier] {
        let (told, follow) = ControlRegister::new(&cell.bus(service).await).follow();
        assert!(!told.borrow().is_fresh(tokio::time::Instant::now(), BOUND), "nothing is heard yet");
        tasks.spawn(follow);
        heard.push(told);
    }
    let all = [
        Control::Stop { target: Target::All, stopped: true },
        Control::Stop { target: Target::Tenant("acme".parse().unwrap()), stopped: true },
        Control::Stop { target: Target::Sender(SenderMark([7; 16])), stopped: true },
        Control::Stop { target: Target::Account("mobi".parse().unwrap()), stopped: true },
        Control::Flow { account: "mobi".parse().unwrap(), flow: Flow::Draining },
        release(7, Release::AsUnknown),
        release(8, Release::Resend),
    ];
    for control in all.clone() {
        says.say(&word(control)).await.unwrap();
    }
    let lifted = Control::Stop { target: Target::All, stopped: false };
    says.say(&word(lifted.clone())).await.unwrap();
    let expected: Controls = all.into_iter().chain([lifted]).collect();
    for told in &mut heard {
        let same = told.wait_for(|heard| *heard.controls == expected && heard.at.is_some());
        timeout(BOUND, same).await.unwrap().unwrap();
    }
    let mut reasons: Vec<_> = says.all().await.unwrap().into_iter().map(|word| word.reason).collect();
    reasons.dedup();
    assert_eq!(reasons, ["a test"]);
}

#[tokio::test]
async fn a_word_that_cannot_be_read_is_no_word() {
    let cell = TestCell::start().await;
    let bus = cell.bus(Service::Carrier).await;
    let register = Register::new(&bus, "CONTROL");
    for key in [
        "control.stop-tenant.Acme",
        "control.other.x",
        "control.flow.mobi",
        "control.stop-sender.zz",
        "control.release.x",
    ] {
        register.put(key, Bytes::from_static(b"")).await.unwrap();
    }
    register.put("control.stop-all.all", Bytes::from_static(b"\xff")).await.unwrap();
    assert_eq!(ControlRegister::new(&bus).all().await.unwrap(), []);
}

#[tokio::test]
async fn what_is_heard_grows_old_when_the_broker_is_away() {
    let cell = TestCell::start().await;
    let (mut told, follow) = ControlRegister::new(&cell.bus(Service::Ingress).await).follow();
    let mut tasks = JoinSet::new();
    tasks.spawn(follow);
    timeout(BOUND, told.wait_for(|heard| heard.at.is_some())).await.unwrap().unwrap();
    cell.server.freeze().await;
    let at = told.borrow_and_update().at.unwrap();
    let within = Duration::from_millis(1_500);
    tokio::time::sleep_until(at + within).await;
    // One answer may have been on its way.
    let at = told.borrow().at.unwrap();
    tokio::time::sleep_until(at + within).await;
    assert!(!told.borrow().is_fresh(tokio::time::Instant::now(), within));
    cell.server.thaw();
    timeout(BOUND, told.changed()).await.unwrap().unwrap();
    assert!(told.borrow().is_fresh(tokio::time::Instant::now(), within));
}
