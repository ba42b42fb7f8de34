//! Messages that wait for their time: moved when it has come, by whichever process, once.

use std::time::Duration;

use futures::future::join_all;
use sotto_bus::{SCHEDULED, Schedule, Service, StreamReader, Subject};
use sotto_core::Lane;

use crate::cell::{TestCell, Texts, publisher, texts, vn};

/// 2026-11-24T04:16:55Z
const NOW: u32 = 1_795_493_815;
const DAYS: Duration = Duration::from_secs(34 * 86_400);

async fn held(cell: &TestCell, stream: &str) -> Vec<(Subject, Vec<String>)> {
    let reader = StreamReader::<Texts>::new(&cell.bus(Service::Operator).await, stream).unwrap();
    let state = reader.state().await.unwrap();
    let mut reading = reader.read(state.first, state.last);
    let mut held = Vec::new();
    while let Some(stored) = reading.next().await.unwrap() {
        held.push((stored.subject.unwrap(), stored.batch.texts));
    }
    held
}

#[tokio::test]
async fn what_is_due_is_moved_once_by_however_many_and_the_rest_stays() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    let shards: Vec<_> = vn().shards.iter().collect();
    let at = |second, lane| Subject::Scheduled(second, lane, shards[1]);
    for (second, lane, text) in [
        (NOW + 2, Lane::Promotional, "later"),
        (NOW + 1, Lane::Promotional, "one"),
        (NOW + 1, Lane::Transactional, "two"),
        (NOW + 1, Lane::Promotional, "three"),
        (NOW, Lane::Promotional, "now"),
    ] {
        publisher.publish(&at(second, lane), text.to_owned()).await.unwrap();
    }
    let schedules = [cell.bus(Service::Ingress).await, cell.bus(Service::Ingress).await];
    let schedules = schedules.map(|bus| Schedule::new(&bus));
    assert_eq!(schedules[0].release(NOW..=NOW).await.unwrap(), 1);
    assert_eq!(schedules[0].release(NOW..=NOW).await.unwrap(), 0);
    let moved = join_all(schedules.iter().map(|schedule| schedule.release(NOW + 1..=NOW + 1))).await;
    let moved: usize = moved.into_iter().map(Result::unwrap).sum();
    assert!(moved >= 3, "{moved}");
    let accepted = |lane| Subject::Accepted(lane, shards[1]);
    let mut found = held(&cell, "INTAKE").await;
    found.sort();
    let mut wanted = [
        (accepted(Lane::Promotional), texts(&["now"])),
        (accepted(Lane::Promotional), texts(&["one"])),
        (accepted(Lane::Transactional), texts(&["two"])),
        (accepted(Lane::Promotional), texts(&["three"])),
    ];
    wanted.sort();
    assert_eq!(found, wanted);
    assert_eq!(held(&cell, SCHEDULED).await, [(at(NOW + 2, Lane::Promotional), texts(&["later"]))]);
}

#[tokio::test]
async fn what_came_due_while_nobody_looked_is_found_at_the_start() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    let shard = vn().shards.iter().next().unwrap();
    let days = |days: u32| days * 86_400;
    for second in [NOW - days(33), NOW - days(2), NOW - 3_600, NOW - 1, NOW, NOW + 1, NOW + days(30)] {
        let subject = Subject::Scheduled(second, Lane::Transactional, shard);
        publisher.publish(&subject, second.to_string()).await.unwrap();
    }
    let schedule = Schedule::new(&cell.bus(Service::Ingress).await);
    assert_eq!(schedule.catch_up(NOW, DAYS).await.unwrap(), 5);
    assert_eq!(schedule.catch_up(NOW, DAYS).await.unwrap(), 0);
    let left: Vec<_> = held(&cell, SCHEDULED).await.into_iter().map(|(_, texts)| texts.concat()).collect();
    assert_eq!(left, [(NOW + 1).to_string(), (NOW + days(30)).to_string()]);
}
