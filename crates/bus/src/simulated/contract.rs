//! What JetStream does and this crate builds on, as scripts that are run against a nats-server and against the simulated broker:
//! both must tell what is expected. Where they differ, the simulation is wrong.
//!
//! Below publisher, worker and reader: subjects, headers and JSON as they go over the connection.

mod broker;
mod consuming;
mod reading;
mod storing;

use broker::Broker;

/// Runs a script against both.
async fn agree(script: impl AsyncFn(&Broker) -> Vec<String>, expected: &[&str]) {
    for broker in [Broker::real().await, Broker::simulated()] {
        assert_eq!(script(&broker).await, expected, "{}", broker.name);
    }
}
