//! Slow, dead and flooding clients hurt nobody but themselves.

use std::time::Duration;

use futures::stream;
use sotto_proto::message::v1::SendStreamRequest;
use sotto_testkit::eventually;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    cell::{BOUND, Cell, with_token},
    load::{self, Load},
};

#[tokio::test]
async fn others_are_served_while_some_are_slow_dead_or_flooding() {
    let mut cell = Cell::start().await;
    let token = cell.token("shop").await;
    let ingress = cell.address("ingress.grpc");

    // Dead: connected and silent, some in the middle of a TLS hello.
    let mut dead = Vec::new();
    for n in 0..64 {
        let mut socket = TcpStream::connect(&ingress).await.unwrap();
        if n % 2 == 0 {
            socket.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
        }
        dead.push(socket);
    }
    // Slow: an open stream that sends nothing, and one that floods and never reads an answer.
    let mut idle = cell.messages();
    let silent = idle.send_stream(with_token(stream::pending::<SendStreamRequest>(), &token)).await.unwrap();
    let mut flooding = cell.messages();
    let flood = (0..20_000_u32).map(|n| {
        let request = load::otp(5_000_000 + n);
        SendStreamRequest {
            reference: u64::from(n),
            message: request.message,
            idempotency_key: String::new(),
        }
    });
    let unread = flooding.send_stream(with_token(tokio_stream::iter(flood), &token)).await.unwrap();

    // Another tenant's client does its work meanwhile.
    cell.new_client("other", "globex", "GLOBEX").await;
    let ids = tokio::time::timeout(BOUND, Load::start(&cell, 0..50).await.finish()).await.unwrap();
    let delivered = tokio::time::timeout(BOUND, load::settled(&cell, &ids, false)).await.unwrap();
    assert_eq!(delivered, 0);

    drop((dead, silent, unread));
    // What the flood had accepted is accounted for like everything else.
    eventually(BOUND * 3, "everything to end", async || {
        let told = cell.ledger().await;
        told["balanced"] == true && told["accepted"] == told["delivered"]
    })
    .await;
    assert_eq!(cell.count("duplicates").await, 0);
    assert_eq!(cell.count("parts").await, cell.ledger().await["accepted"].as_u64().unwrap());
    assert!(tokio::time::timeout(Duration::from_secs(5), cell.token("other")).await.is_ok());
    cell.stop().await;
}
