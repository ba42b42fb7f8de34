//! The admin API, JSON over HTTP:
//!
//! * `GET /messages?limit=100`: the last parts taken, oldest first
//! * `GET /arrivals?limit=100`: their recipients and times of arrival, `[["84912345678", 1795493815007123], …]`
//! * `GET /counters`
//! * `GET /behaviour`, `POST /behaviour`: see [`Behaviour`]; a post changes the fields it names
//! * `POST /write`: a message from a handset, see [`Written`]; answers its number of parts
//! * `POST /drop-links`: cuts every link
//! * `POST /unbind`: unbinds every link in order
//! * `POST /recover`: behaves as at the start
//! * `POST /reset`: forgets messages, counters and waiting receipts, and behaves as at the start

use crate::{
    behaviour::Behaviour,
    handset::Written,
    ledger::{Counters, Record},
    simulator::Handle,
};
use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) fn router(handle: Handle) -> Router {
    Router::new()
        .route("/messages", get(messages))
        .route("/arrivals", get(arrivals))
        .route("/counters", get(counters))
        .route("/behaviour", get(behaviour).post(behave))
        .route("/write", post(write))
        .route("/drop-links", post(drop_links))
        .route("/unbind", post(unbind))
        .route("/recover", post(recover))
        .route("/reset", post(reset))
        .with_state(handle)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default = "default_limit")]
    limit: usize,
}

const fn default_limit() -> usize {
    100
}

async fn messages(State(handle): State<Handle>, Query(page): Query<Page>) -> Json<Vec<Record>> {
    Json(handle.messages(page.limit))
}

async fn arrivals(State(handle): State<Handle>, Query(page): Query<Page>) -> Json<Vec<(String, i64)>> {
    Json(handle.arrivals(page.limit))
}

async fn counters(State(handle): State<Handle>) -> Json<Counters> {
    Json(handle.counters())
}

async fn behaviour(State(handle): State<Handle>) -> Json<Behaviour> {
    Json(handle.behaviour())
}

async fn behave(
    State(handle): State<Handle>,
    Json(patch): Json<Value>,
) -> Result<Json<Behaviour>, (StatusCode, Json<Value>)> {
    handle.behave(patch).map(Json).map_err(|error| refused(&error))
}

async fn write(
    State(handle): State<Handle>,
    Json(written): Json<Written>,
) -> Result<Json<Value>, (StatusCode, Json<Value>)> {
    handle.write(&written).map(|parts| Json(json!({"parts": parts}))).map_err(|error| refused(&error))
}

fn refused(error: &impl std::error::Error) -> (StatusCode, Json<Value>) {
    (StatusCode::BAD_REQUEST, Json(json!({"error": error.to_string()})))
}

async fn drop_links(State(handle): State<Handle>) -> StatusCode {
    handle.drop_links();
    StatusCode::NO_CONTENT
}

async fn unbind(State(handle): State<Handle>) -> StatusCode {
    handle.unbind();
    StatusCode::NO_CONTENT
}

async fn recover(State(handle): State<Handle>) -> StatusCode {
    handle.recover();
    StatusCode::NO_CONTENT
}

async fn reset(State(handle): State<Handle>) -> StatusCode {
    handle.reset();
    StatusCode::NO_CONTENT
}
