//! The admin API over HTTP.

use crate::support::{bind, message, start};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use sotto_simulator::Simulator;

async fn ask(simulator: &Simulator, method: &str, path: &str, body: &str) -> (u16, Value) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>();
    let request = axum::http::Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", simulator.admin()))
        .header("content-type", "application/json")
        .body(Full::from(body.to_owned()))
        .unwrap();
    let response = client.request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn tells_and_sets() {
    let simulator = start(json!({"receipts": false})).await;
    let mut partner = bind(&simulator).await;
    for text in ["one", "two", "three"] {
        partner.answered(message("84901", text)).await;
    }
    let (status, messages) = ask(&simulator, "GET", "/messages?limit=2", "").await;
    assert_eq!(status, 200);
    let texts: Vec<_> = messages.as_array().unwrap().iter().map(|record| record["text"].clone()).collect();
    assert_eq!(texts, ["two", "three"]);
    let (_, counters) = ask(&simulator, "GET", "/counters", "").await;
    assert_eq!((&counters["submits"], &counters["responses"]["ESME_ROK"]), (&json!(3), &json!(3)));
    let (status, behaviour) = ask(&simulator, "POST", "/behaviour", r#"{"refuse_share":1}"#).await;
    assert_eq!((status, &behaviour["refuse_share"]), (200, &json!(1.0)));
    assert!(!partner.answered(message("84901", "four")).await.status.is_ok());
    let (status, error) = ask(&simulator, "POST", "/behaviour", r#"{"refuse":1}"#).await;
    assert_eq!(status, 400);
    assert!(error["error"].as_str().unwrap().contains("refuse"));
    let hello = r#"{"partner":"sotto","from":"84912345678","to":"9029","text":"hello"}"#;
    assert_eq!(ask(&simulator, "POST", "/write", hello).await, (200, json!({"parts": 1})));
    let (status, error) = ask(&simulator, "POST", "/write", &hello.replace("sotto", "other")).await;
    assert_eq!(status, 400);
    assert!(error["error"].as_str().unwrap().contains("partner"));
    assert_eq!(ask(&simulator, "POST", "/recover", "").await.0, 204);
    assert_eq!(ask(&simulator, "GET", "/behaviour", "").await.1["refuse_share"], json!(0.0));
    assert_eq!(ask(&simulator, "GET", "/counters", "").await.1["submits"], json!(4), "nothing is forgotten");
    assert_eq!(ask(&simulator, "POST", "/reset", "").await.0, 204);
    assert_eq!(ask(&simulator, "GET", "/counters", "").await.1["submits"], json!(0));
    assert_eq!(ask(&simulator, "GET", "/behaviour", "").await.1["refuse_share"], json!(0.0));
    assert_eq!(ask(&simulator, "POST", "/unbind", "").await.0, 204);
    assert!(partner.driver.join_next().await.is_some());
    simulator.stop().await;
}
