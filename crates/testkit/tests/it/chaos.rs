use std::{net::SocketAddr, time::Duration};

use sotto_testkit::ChaosProxy;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

const BOUND: Duration = Duration::from_secs(5);

/// Answers every byte with `mark`.
async fn server(mark: u8, tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            open.spawn(async move {
                while stream.read_u8().await.is_ok() && stream.write_u8(mark).await.is_ok() {}
            });
        }
    });
    address
}

async fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
    stream.write_u8(b'?').await?;
    stream.read_u8().await
}

#[tokio::test]
async fn passes_stalls_delays_cuts_and_retargets() {
    let mut tasks = JoinSet::new();
    let first = server(b'1', &mut tasks).await;
    let second = server(b'2', &mut tasks).await;
    let proxy = ChaosProxy::start(first).await;

    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut stream).await.unwrap(), b'1');

    proxy.stall();
    stream.write_u8(b'?').await.unwrap();
    let mut answer = Box::pin(stream.read_u8());
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut answer).await.is_err(), "stalled");
    proxy.pass();
    assert_eq!(tokio::time::timeout(BOUND, answer).await.unwrap().unwrap(), b'1', "passes what was held");

    proxy.slow(Duration::from_millis(200));
    let mut answer = Box::pin(ask(&mut stream));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut answer).await.is_err(), "late both ways");
    assert_eq!(tokio::time::timeout(BOUND, answer).await.unwrap().unwrap(), b'1', "passes late");
    proxy.pass();

    let mut second_stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut second_stream).await.unwrap(), b'1');
    proxy.uneven(BOUND);
    second_stream.write_u8(b'?').await.unwrap();
    assert_eq!(ask(&mut stream).await.unwrap(), b'1', "the first connection is not late");
    let late = tokio::time::timeout(Duration::from_millis(20), second_stream.read_u8()).await;
    assert!(late.is_err(), "and overtakes the second");
    proxy.pass();

    proxy.cut();
    assert!(tokio::time::timeout(BOUND, ask(&mut stream)).await.unwrap().is_err(), "cut");
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(tokio::time::timeout(BOUND, ask(&mut refused)).await.unwrap().is_err(), "cut for new ones too");

    proxy.pass();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut stream).await.unwrap(), b'1');
    proxy.retarget(second);
    assert!(
        tokio::time::timeout(BOUND, ask(&mut stream)).await.unwrap().is_err(),
        "retarget drops open ones"
    );
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut stream).await.unwrap(), b'2');
}
