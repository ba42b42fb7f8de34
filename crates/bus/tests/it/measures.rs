//! What a connection counts, and what is told of streams.

use std::time::Duration;

use sotto_bus::{Outcome, Service, measure_streams};
use sotto_core::Lane;
use sotto_metrics::Metrics;
use sotto_testkit::eventually;

use crate::cell::{BOUND, Script, TestCell, accepted, publisher, quick, route, texts};

/// Whether a page says this.
fn says(metrics: &Metrics, line: &str) -> bool {
    metrics.page().lines().any(|one| one == line)
}

#[tokio::test]
async fn publishes_redeliveries_and_outcomes_are_counted() {
    let cell = TestCell::start().await;
    let ingress = cell.bus(Service::Ingress).await;
    publisher(&ingress).publish_all(&accepted(Lane::Otp), texts(&["a", "b"])).await.unwrap();
    for line in [
        "sotto_bus_connected 1.0",
        "sotto_bus_publish_seconds_count{topic=\"accepted\"} 1",
        "sotto_bus_publish_items_sum{topic=\"accepted\"} 2.0",
        "sotto_bus_publish_failures_total{why=\"unavailable\"} 0",
    ] {
        assert!(says(ingress.metrics(), line), "{line}\n{}", ingress.metrics().page());
    }
    let bus = cell.bus(Service::Routing).await;
    let script = Script::new(|given| {
        let again = Outcome::Retry { after: Duration::from_millis(10) };
        vec![if given.delivery == 1 { again } else { Outcome::Done }; given.items.len()]
    });
    let worker = route(&bus, &script, quick()).await;
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);
    for line in [
        "sotto_bus_deliveries_total{topic=\"accepted\"} 2",
        "sotto_bus_redeliveries_total{topic=\"accepted\"} 1",
        "sotto_bus_items_total{topic=\"accepted\",outcome=\"retry\"} 2",
        "sotto_bus_items_total{topic=\"accepted\",outcome=\"done\"} 2",
        "sotto_bus_handle_seconds_count{topic=\"accepted\"} 2",
        "sotto_bus_quarantined_total{topic=\"accepted\"} 0",
    ] {
        assert!(says(bus.metrics(), line), "{line}\n{}", bus.metrics().page());
    }
    assert!(bus.close(BOUND).await);
}

#[tokio::test]
async fn what_a_stream_holds_and_what_waits_for_a_consumer_is_told() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    for text in ["a", "b", "c"] {
        publisher.publish(&accepted(Lane::Otp), text.to_owned()).await.unwrap();
    }
    let (bus, metrics) = (cell.bus(Service::Routing).await, Metrics::default());
    let measuring = measure_streams(bus, metrics.clone(), &["INTAKE"], &[]);
    let told = eventually(BOUND, "the stream to be looked at", || async {
        says(&metrics, "sotto_consumer_pending{consumer=\"routing-otp\"} 3.0")
            && says(&metrics, "sotto_consumer_pending{consumer=\"routing-promotional\"} 0.0")
            && says(&metrics, "sotto_stream_messages{stream=\"INTAKE\"} 3.0")
            && says(&metrics, "sotto_stream_seen{stream=\"INTAKE\"} 1.0")
    });
    tokio::select! {
        () = measuring => panic!("it ended by itself"),
        () = told => {}
    }
    let page = metrics.page();
    let fill = page.lines().find_map(|line| line.strip_prefix("sotto_stream_fill_ratio{stream=\"INTAKE\"} "));
    let fill: f64 = fill.unwrap().parse().unwrap();
    assert!(fill > 0.0 && fill < 0.001, "{page}");
}
