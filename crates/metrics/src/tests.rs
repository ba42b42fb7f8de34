use super::*;

label! {
    /// Ways.
    enum Way("way") {
        Grpc = "grpc",
        Nats = "nats",
    }
}

const TAKEN: About = About { name: "sotto_test_taken_total", what: "Messages taken", worry: "never" };

#[test]
fn the_page_is_what_prometheus_reads() {
    let metrics = Metrics::default();
    let taken = metrics.counters::<Way>(TAKEN);
    taken.of(Way::Nats).add(3);
    let account = metrics.with("account", "viettel \"1\"");
    account.gauge(About { name: "sotto_test_fill_ratio", what: "Fill", worry: "at 1" }).set(0.25);
    let times = About { name: "sotto_test_seconds", what: "Times", worry: "above 1" };
    metrics
        .times(times, &[Duration::from_millis(500), Duration::from_secs(1)])
        .took(Duration::from_millis(750));
    metrics.read(About { name: "sotto_test_absent", what: "Nothing", worry: "never" }, || None);
    metrics.read_counter(About { name: "sotto_test_read_total", what: "Read", worry: "never" }, || Some(2.0));
    assert_eq!(
        metrics.page(),
        "# HELP sotto_test_absent Nothing.\n\
         # TYPE sotto_test_absent gauge\n\
         # HELP sotto_test_fill_ratio Fill.\n\
         # TYPE sotto_test_fill_ratio gauge\n\
         sotto_test_fill_ratio{account=\"viettel \\\"1\\\"\"} 0.25\n\
         # HELP sotto_test_read_total Read.\n\
         # TYPE sotto_test_read_total counter\n\
         sotto_test_read_total 2.0\n\
         # HELP sotto_test_seconds Times.\n\
         # TYPE sotto_test_seconds histogram\n\
         sotto_test_seconds_bucket{le=\"0.5\"} 0\n\
         sotto_test_seconds_bucket{le=\"1\"} 1\n\
         sotto_test_seconds_bucket{le=\"+Inf\"} 1\n\
         sotto_test_seconds_sum 0.75\n\
         sotto_test_seconds_count 1\n\
         # HELP sotto_test_taken_total Messages taken.\n\
         # TYPE sotto_test_taken_total counter\n\
         sotto_test_taken_total{way=\"grpc\"} 0\n\
         sotto_test_taken_total{way=\"nats\"} 3\n"
    );
}

#[test]
fn every_label_has_its_own() {
    let metrics = Metrics::default();
    let taken = metrics.each::<sotto_core::Lane, _>(|metrics| metrics.counters::<Way>(TAKEN));
    for (count, lane) in sotto_core::Lane::ALL.into_iter().enumerate() {
        taken.of(lane).of(Way::Grpc).add(count + 1);
        taken.of(lane).of(Way::Nats).add(10 * (count + 1));
    }
    let page = metrics.page();
    for line in [
        "{lane=\"otp\",way=\"grpc\"} 1\n",
        "{lane=\"transactional\",way=\"nats\"} 20\n",
        "{lane=\"promotional\",way=\"grpc\"} 3\n",
    ] {
        assert!(page.contains(line), "{page}");
    }
    let [described] = metrics.described().try_into().unwrap();
    assert_eq!(described, Described { about: TAKEN, kind: Kind::Counter, labels: vec!["lane", "way"] });
}

#[test]
fn histograms_count_by_size() {
    let metrics = Metrics::default();
    let batches = metrics.sizes(About { name: "sotto_test_items", what: "Items", worry: "never" }, &[1, 10]);
    for size in [0, 1, 2, 10, 11, usize::MAX / 2] {
        batches.sized(size);
    }
    let page = metrics.page();
    for line in ["{le=\"1\"} 2\n", "{le=\"10\"} 4\n", "{le=\"+Inf\"} 6\n", "_count 6\n"] {
        assert!(page.contains(line), "{page}");
    }
}

#[test]
fn what_a_part_measures_is_served_with_the_labels_of_who_takes_it_in() {
    let (metrics, part) = (Metrics::default(), Metrics::default());
    let taken = part.counters::<Way>(TAKEN);
    metrics.with("account", "one").take_in(&part);
    taken.of(Way::Grpc).add(2);
    assert!(metrics.page().contains("{account=\"one\",way=\"grpc\"} 2\n"), "{}", metrics.page());
}

#[test]
fn a_part_that_starts_anew_takes_its_place_and_series_are_bounded() {
    let metrics = Metrics::default();
    metrics.counter(TAKEN).one();
    metrics.counter(TAKEN).add(5);
    assert!(metrics.page().ends_with("sotto_test_taken_total 5\n"));
    for number in 0..2 * MOST_SERIES {
        metrics.with("account", &number.to_string()).counter(TAKEN).one();
    }
    assert_eq!(metrics.page().lines().count(), 2 + MOST_SERIES);
}

#[tokio::test(start_paused = true)]
async fn an_age_grows_until_it_happens_again() {
    let metrics = Metrics::default();
    let age = metrics.age(About { name: "sotto_test_age_seconds", what: "Age", worry: "above 5" });
    tokio::time::advance(Duration::from_secs(7)).await;
    assert!(metrics.page().ends_with("sotto_test_age_seconds 7.0\n"));
    age.now();
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(metrics.page().ends_with("sotto_test_age_seconds 2.0\n"));
}
