//! The register of leases.

use std::time::Duration;

use sotto_bus::{LeaseError, LeaseKey, LeaseRecord, Leases, Service};

use crate::cell::{TestCell, accounts};

fn by(holder: &str) -> LeaseRecord {
    LeaseRecord { holder: holder.to_owned(), ttl: Duration::from_secs(15), released: false }
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
        (Ok(sequence), Err(LeaseError::Taken)) => ("one", sequence),
        (Err(LeaseError::Taken), Ok(sequence)) => ("two", sequence),
        other => panic!("{other:?}"),
    };
    let known = two.of(&account).await.unwrap();
    assert_eq!(known.len(), 1);
    assert_eq!((known[0].sequence, known[0].record.clone()), (sequence, by(winner)));
    // Renewed by its sequence; who has an older one is too late.
    let renewed = one.write(&account, &key, &by("one"), sequence).await.unwrap();
    assert!(matches!(two.write(&account, &key, &by("two"), sequence).await, Err(LeaseError::Taken)));
    let replica = LeaseKey::Replica("two".to_owned());
    two.write(&account, &replica, &by("two"), 0).await.unwrap();
    let mut known = one.of(&account).await.unwrap();
    known.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(known.iter().map(|lease| lease.key.clone()).collect::<Vec<_>>(), [key, replica]);
    assert_eq!(known[0].sequence, renewed);
    // Another account's keys are its own.
    assert_eq!(one.of(&"other".parse().unwrap()).await.unwrap(), []);
}
