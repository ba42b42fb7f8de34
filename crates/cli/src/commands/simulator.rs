//! `sotto simulator`: what the cell's simulated carrier does, while it runs (docs/simulator.md).

use clap::{Args, Subcommand, ValueEnum};
use hyper::{StatusCode, body::Bytes};
use serde_json::{Value, json};

use crate::{CliError, Output, Tone, cell::CellDir, http};

/// Which simulator.
#[derive(Debug, Args)]
pub(crate) struct Simulator {
    /// Admin address of a simulator that `sotto up` did not start, as it printed it: 127.0.0.1:41877
    #[arg(long, global = true, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Without one: what it was sent, and how it behaves
    #[command(subcommand)]
    order: Option<Order>,
}

/// What it is to do. Shares are from 0 to 1, and exact: 0.05 hits every twentieth.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Order {
    /// Refuse with ESME_RTHROTTLED what is above so many submits a second
    Throttle {
        /// Submits a second, or off
        #[arg(value_parser = count)]
        limit: Limit,
    },
    /// Refuse a share of the submits
    Refuse {
        /// From 0 to 1
        share: f64,
        /// With this command status: 0x58, 88
        #[arg(long, value_parser = status)]
        status: Option<u32>,
    },
    /// Take a share of the submits and never answer them
    NeverAnswer {
        /// From 0 to 1
        share: f64,
    },
    /// Answer a share of the submits late
    Slow {
        /// From 0 to 1
        share: f64,
        /// So many milliseconds late
        #[arg(long)]
        delay_ms: Option<u64>,
    },
    /// Cut each link at its n-th submit, taken and not answered
    DropAfter {
        /// Which, from 1, or off
        #[arg(value_parser = count)]
        submits: Limit,
    },
    /// Send nonsense after a share of the submits
    Garbage {
        /// From 0 to 1
        share: f64,
    },
    /// Do something to a share of the receipts
    Receipts {
        /// What
        what: Noise,
        /// From 0 to 1
        share: f64,
        /// Of late ones: so many milliseconds after the submit
        #[arg(long)]
        delay_ms: Option<u64>,
    },
    /// Send a message from a handset
    Write {
        /// The handset's number
        #[arg(long)]
        from: String,
        /// The number that it writes to
        #[arg(long)]
        to: String,
        /// The text
        #[arg(long)]
        text: String,
        /// Who gets it: the system id that it binds with
        #[arg(long, default_value = "sotto")]
        partner: String,
    },
    /// Set fields of the behaviour by their names in docs/simulator.md
    Set {
        /// receipt_state=UNDELIV, max_binds=null …
        #[arg(required = true, value_name = "FIELD=VALUE", value_parser = field)]
        fields: Vec<(String, Value)>,
    },
    /// Cut every link as it stands
    DropLinks,
    /// Unbind every link in order
    Unbind,
    /// Behave as at the start
    Recover,
    /// Forget messages, counters and waiting receipts, and behave as at the start
    Reset,
}

/// What may be done to receipts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Noise {
    /// They go before the answer
    Early,
    /// They come late
    Late,
    /// They are sent twice
    Duplicate,
    /// One for an id that was never given follows
    Orphan,
    /// One that says ENROUTE goes before
    Enroute,
}

/// A number, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(Option<u64>);

fn count(text: &str) -> Result<Limit, String> {
    if text == "off" {
        return Ok(Limit(None));
    }
    text.parse().map(|count| Limit(Some(count))).map_err(|_| "not a whole number and not off".to_owned())
}

fn status(text: &str) -> Result<u32, String> {
    let read = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    read.map_err(|_| "not a command status such as 0x58".to_owned())
}

fn field(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write FIELD=VALUE")?;
    // A word is a text, as people write it.
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

impl Order {
    /// Where it is posted, and what.
    fn request(self) -> (&'static str, Value) {
        let behaviour = |fields: Value| ("/behaviour", fields);
        let alone = |path| (path, Value::Null);
        match self {
            Self::Throttle { limit: Limit(limit) } => behaviour(json!({"throttle_per_second": limit})),
            Self::Refuse { share, status: None } => behaviour(json!({"refuse_share": share})),
            Self::Refuse { share, status: Some(status) } => {
                behaviour(json!({"refuse_share": share, "refuse_status": status}))
            }
            Self::NeverAnswer { share } => behaviour(json!({"never_answer_share": share})),
            Self::Slow { share, delay_ms: None } => behaviour(json!({"slow_answers": share})),
            Self::Slow { share, delay_ms: Some(delay) } => {
                behaviour(json!({"slow_answers": share, "slow_answer_delay_ms": delay}))
            }
            Self::DropAfter { submits: Limit(submits) } => behaviour(json!({"drop_after_submits": submits})),
            Self::Garbage { share } => behaviour(json!({"garbage": share})),
            Self::Receipts { what, share, delay_ms } => {
                let name = match what {
                    Noise::Early => "early_receipts",
                    Noise::Late => "late_receipts",
                    Noise::Duplicate => "duplicate_receipts",
                    Noise::Orphan => "orphan_receipts",
                    Noise::Enroute => "enroute_receipts",
                };
                let delay = delay_ms.map(|delay| ("late_receipt_delay_ms".to_owned(), json!(delay)));
                behaviour(Value::Object([(name.to_owned(), json!(share))].into_iter().chain(delay).collect()))
            }
            Self::Write { from, to, text, partner } => {
                ("/write", json!({"partner": partner, "from": from, "to": to, "text": text}))
            }
            Self::Set { fields } => behaviour(Value::Object(fields.into_iter().collect())),
            Self::DropLinks => alone("/drop-links"),
            Self::Unbind => alone("/unbind"),
            Self::Recover => alone("/recover"),
            Self::Reset => alone("/reset"),
        }
    }
}

pub(crate) async fn simulator(dir: &CellDir, asked: Simulator, output: &Output) -> Result<(), CliError> {
    let Simulator { admin, order } = asked;
    let address = match admin {
        Some(address) => address,
        None => dir.running()?.addresses.get("simulator.admin").cloned().ok_or_else(|| {
            CliError::new("the running cell has no simulator: it was started with --carriers")
                .fix("name one that you started yourself: sotto simulator --admin ADDRESS")
        })?,
    };
    let Some(order) = order else { return show(&address, output).await };
    let (path, body) = order.request();
    let answer = read(http::post(&address, path, &body).await?)?;
    output.json(&answer)?;
    match (path, answer.get("parts").and_then(Value::as_u64)) {
        (_, Some(parts)) => output.line(format!("written: {parts} part(s)")),
        ("/behaviour", None) => tell_behaviour(&answer, output),
        (_, None) => output.line("done"),
    }
}

async fn show(address: &str, output: &Output) -> Result<(), CliError> {
    let counters = read(http::get(address, "/counters").await?)?;
    let behaviour = read(http::get(address, "/behaviour").await?)?;
    output.json(&json!({"counters": counters, "behaviour": behaviour}))?;
    output.line(output.tone(Tone::Strong, "since the start or the last reset"))?;
    for (name, count) in counters.as_object().into_iter().flatten().filter(|(_, count)| **count != json!(0)) {
        output.line(format!("  {name:<20} {count}"))?;
    }
    output.line(output.tone(Tone::Strong, "it behaves"))?;
    tell_behaviour(&behaviour, output)
}

fn tell_behaviour(behaviour: &Value, output: &Output) -> Result<(), CliError> {
    let fields = behaviour.as_object().into_iter().flatten();
    let idle = |value: &Value| value.is_null() || value.as_f64() == Some(0.0) || *value == json!(false);
    fields
        .filter(|(_, value)| !idle(value))
        .try_for_each(|(name, value)| output.line(format!("  {name:<24} {value}")))
}

/// What it answered, or why it refused.
fn read((status, body): (StatusCode, Bytes)) -> Result<Value, CliError> {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(body);
    }
    let why = body.get("error").and_then(Value::as_str).map_or_else(|| status.to_string(), str::to_owned);
    Err(CliError::new(format!("the simulator refuses: {why}"))
        .fix("docs/simulator.md names the fields and what they take"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        simulator: Simulator,
    }

    fn order(words: &[&str]) -> Option<(&'static str, Value)> {
        let line = Line::try_parse_from(["simulator"].iter().chain(words)).ok()?;
        line.simulator.order.map(Order::request)
    }

    #[test]
    fn each_order_is_a_request() {
        for (words, path, body) in [
            (&["throttle", "50"][..], "/behaviour", json!({"throttle_per_second": 50})),
            (&["throttle", "off"], "/behaviour", json!({"throttle_per_second": null})),
            (&["refuse", "0.1"], "/behaviour", json!({"refuse_share": 0.1})),
            (
                &["refuse", "1", "--status", "0x45"],
                "/behaviour",
                json!({"refuse_share": 1.0, "refuse_status": 69}),
            ),
            (&["never-answer", "0.5"], "/behaviour", json!({"never_answer_share": 0.5})),
            (&["slow", "0.2"], "/behaviour", json!({"slow_answers": 0.2})),
            (
                &["slow", "0.2", "--delay-ms", "900"],
                "/behaviour",
                json!({"slow_answers": 0.2, "slow_answer_delay_ms": 900}),
            ),
            (&["drop-after", "7"], "/behaviour", json!({"drop_after_submits": 7})),
            (&["garbage", "0.1"], "/behaviour", json!({"garbage": 0.1})),
            (&["receipts", "early", "0.1"], "/behaviour", json!({"early_receipts": 0.1})),
            (
                &["receipts", "late", "0.1", "--delay-ms", "9"],
                "/behaviour",
                json!({"late_receipts": 0.1, "late_receipt_delay_ms": 9}),
            ),
            (&["receipts", "duplicate", "1"], "/behaviour", json!({"duplicate_receipts": 1.0})),
            (&["receipts", "orphan", "1"], "/behaviour", json!({"orphan_receipts": 1.0})),
            (&["receipts", "enroute", "1"], "/behaviour", json!({"enroute_receipts": 1.0})),
            (
                &["write", "--from", "84912345678", "--to", "9029", "--text", "TC"],
                "/write",
                json!({"partner": "sotto", "from": "84912345678", "to": "9029", "text": "TC"}),
            ),
            (
                &["set", "receipt_state=UNDELIV", "max_binds=null", "receipts=false"],
                "/behaviour",
                json!({"receipt_state": "UNDELIV", "max_binds": null, "receipts": false}),
            ),
            (&["drop-links"], "/drop-links", Value::Null),
            (&["unbind"], "/unbind", Value::Null),
            (&["recover"], "/recover", Value::Null),
            (&["reset"], "/reset", Value::Null),
        ] {
            assert_eq!(order(words), Some((path, body)), "{words:?}");
        }
        for wrong in [
            &["throttle", "fast"][..],
            &["refuse"],
            &["refuse", "1", "--status", "x"],
            &["receipts", "lost", "1"],
            &["set"],
            &["set", "receipts"],
            &["write", "--from", "1"],
        ] {
            assert_eq!(order(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_refusal_says_why() {
        let refused =
            (StatusCode::BAD_REQUEST, Bytes::from_static(br#"{"error":"garbage must be from 0 to 1"}"#));
        assert!(read(refused).unwrap_err().to_string().ends_with("garbage must be from 0 to 1"));
        assert!(read((StatusCode::NOT_FOUND, Bytes::new())).unwrap_err().to_string().contains("404"));
        assert_eq!(read((StatusCode::NO_CONTENT, Bytes::new())).unwrap(), Value::Null);
    }
}
