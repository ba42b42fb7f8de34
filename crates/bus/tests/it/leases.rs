//! The register of leases.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use sotto_bus::{LeaseKey, LeaseRecord, Leases, Register, RegisterError, Service};

use crate::cell::{BOUND, TestCell, accounts};

fn by(holder: &str) -> LeaseRecord {
    LeaseRecord { holder: holder.to_owned(), ttl: Duration::from_secs(15), released: false, bound: true }
}

#[tokio::test]
async fn only_one_of_two_takes_a_key() {
    let cell = TestCell::start().await;
    let (one, two) = (cell.bus(Service::Carrier).await, cell.bus(Service::Carrier).await);
    let (one, two) = (Leases::new(&one), Leases::new(&two));
    let account = accounts().remove(0);
    assert_eq!(one.of(&account).await.unwrap(), []);
    let key = LeaseKey::Bind(1);
    let (a, b) = tokio::join!(async { one.write(&account, &key, &by("one"), 0).await }, async {
        two.write(&account, &key, &by("two"), 0).await
    },);
    let (winner, sequence) = match (a, b) {
        (Ok(sequence), Err(RegisterError::Conflict)) => ("one", sequence),
        (Err(RegisterError::Conflict), Ok(sequence)) => ("two", sequence),
        other => panic!("{other:?}"),
    };
    let known = two.of(&account).await.unwrap();
    assert_eq!(known.len(), 1);
    assert_eq!((known[0].sequence, known[0].record.clone()), (sequence, by(winner)));
    // Renewed by its sequence; who has an older one is too late.
    let renewed = one.write(&account, &key, &by("one"), sequence).await.unwrap();
    assert!(matches!(two.write(&account, &key, &by("two"), sequence).await, Err(RegisterError::Conflict)));
    let replica = LeaseKey::Replica("two".to_owned());
    two.write(&account, &replica, &by("two"), 0).await.unwrap();
    let mut known = one.of(&account).await.unwrap();
    known.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(known.iter().map(|lease| lease.key.clone()).collect::<Vec<_>>(), [key, replica]);
    assert_eq!(known[0].sequence, renewed);
    // Another account's keys are its own.
    assert_eq!(one.of(&"other".parse().unwrap()).await.unwrap(), []);
}

#[tokio::test]
async fn a_register_tells_the_latest_word_on_each_key() {
    let cell = TestCell::start().await;
    let register = Register::new(&cell.bus(Service::Carrier).await, "LEASES");
    let key = |name: &str| format!("lease.mobi.{name}");
    assert_eq!(register.get(&key("a")).await.unwrap(), None);
    let first = register.create(&key("a"), Bytes::from_static(b"1")).await.unwrap();
    let again = register.create(&key("a"), Bytes::from_static(b"2")).await;
    assert!(matches!(again, Err(RegisterError::Conflict)));
    let second = register.update(&key("a"), Bytes::from_static(b"2"), first).await.unwrap();
    let late = register.update(&key("a"), Bytes::from_static(b"3"), first).await;
    assert!(second > first && matches!(late, Err(RegisterError::Conflict)));
    register.put(&key("b"), Bytes::from_static(b"x")).await.unwrap();
    let third = register.put(&key("a"), Bytes::from_static(b"3")).await.unwrap();
    let entry = register.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((entry.key, entry.sequence, entry.payload.as_ref()), (key("a"), third, &b"3"[..]));
    // Who watches hears of a change within a period or two.
    let mut watch = std::pin::pin!(register.watch("lease.mobi.*", Duration::from_millis(20)));
    assert_eq!(watch.next().await.unwrap().unwrap().len(), 2);
    register.put(&key("c"), Bytes::from_static(b"y")).await.unwrap();
    let told = async { while watch.next().await.unwrap().unwrap().len() < 3 {} };
    tokio::time::timeout(BOUND, told).await.unwrap();
}
