//! A page of metrics in the text format of Prometheus (0.0.4), as the services write it.

use std::collections::BTreeMap;

/// The most samples of a page that are kept: a service with 200 accounts has some 20,000.
const MOST: usize = 100_000;

/// One number and its labels.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Sample {
    fn is_of(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(*name).is_some_and(|is| is == value))
    }
}

/// What one process told at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Page(BTreeMap<String, Vec<Sample>>);

impl Page {
    /// Reads a page. Lines that are no samples say nothing.
    pub(super) fn parse(text: &str) -> Self {
        let mut page = Self::default();
        for (name, sample) in text.lines().filter_map(sample).take(MOST) {
            page.0.entry(name.to_owned()).or_default().push(sample);
        }
        page
    }

    /// The sum of a metric's samples with these labels; none: it has none.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut of = self.all(name).filter(|sample| sample.is_of(labels)).peekable();
        of.peek()?;
        Some(of.map(|sample| sample.value).sum())
    }

    /// The values of a label, in their order, where the metric is not 0.
    pub(super) fn where_set(&self, name: &str, labels: &[(&str, &str)], label: &str) -> Vec<&str> {
        let set = self.all(name).filter(|sample| sample.value != 0.0 && sample.is_of(labels));
        values(set, label)
    }

    /// The values of a label, in their order.
    pub(super) fn labels(&self, name: &str, label: &str) -> Vec<&str> {
        values(self.all(name), label)
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &Sample> + use<'_> {
        self.0.get(name).into_iter().flatten()
    }

    /// What a counter grew by since an earlier page of the same process; a process that was started anew has counted from 0.
    pub(super) fn grown(&self, before: &Self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let now = self.sum(name, labels)?;
        let then = before.sum(name, labels).filter(|then| *then <= now).unwrap_or(0.0);
        Some(now - then)
    }

    /// The upper bound of the bucket below which so many of all samples since an earlier page lie; none: there were none.
    pub(super) fn quantile(&self, before: &Self, name: &str, share: f64) -> Option<f64> {
        let name = format!("{name}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for le in self.labels(&name, "le") {
            let bound = if le == "+Inf" { f64::INFINITY } else { le.parse().ok()? };
            buckets.push((bound, self.grown(before, &name, &[("le", le)])?));
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        buckets.iter().find(|(_, count)| *count >= all * share).map(|(bound, _)| *bound)
    }
}

fn values<'a>(of: impl Iterator<Item = &'a Sample>, label: &str) -> Vec<&'a str> {
    let mut values: Vec<_> = of.filter_map(|sample| sample.labels.get(label)).map(String::as_str).collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// `name{label="value",…} number`, with or without labels and time.
fn sample(line: &str) -> Option<(&str, Sample)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    let mut rest = rest.trim_start();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, Sample { labels, value }))
}

/// A value up to its closing quote, and what follows that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "# HELP a_total Things.\n# TYPE a_total counter\na_total{account=\"one\",end=\"x\"} 3\n\
        a_total{account=\"two\",end=\"y \\\"}, \\\\\"} 4 1700000000000\nb 0.5\nbroken{x=\"1\" 2\nnothing\n\
        h_bucket{le=\"0.1\"} 5\nh_bucket{le=\"1\"} 9\nh_bucket{le=\"+Inf\"} 10\n";

    #[test]
    fn numbers_are_found_by_name_and_labels() {
        let page = Page::parse(TEXT);
        assert_eq!(page.sum("a_total", &[]), Some(7.0));
        assert_eq!(page.sum("a_total", &[("account", "two")]), Some(4.0));
        assert_eq!(page.sum("a_total", &[("end", "y \"}, \\")]), Some(4.0));
        assert_eq!(page.sum("a_total", &[("account", "three")]), None);
        assert_eq!(
            (page.sum("b", &[]), page.sum("broken", &[]), page.sum("nothing", &[])),
            (Some(0.5), None, None)
        );
        assert_eq!(page.labels("a_total", "account"), ["one", "two"]);
    }

    #[test]
    fn growth_survives_a_process_that_was_started_anew() {
        let (before, now) = (Page::parse("c 10\n"), Page::parse("c 4\n"));
        assert_eq!(now.grown(&before, "c", &[]), Some(4.0));
        assert_eq!(before.grown(&now, "c", &[]), Some(6.0));
        assert_eq!(now.grown(&before, "d", &[]), None);
    }

    #[test]
    fn a_quantile_is_of_what_came_since() {
        let now = Page::parse(TEXT);
        assert_eq!(now.quantile(&Page::default(), "h", 0.5), Some(0.1));
        assert_eq!(now.quantile(&Page::default(), "h", 0.99), Some(f64::INFINITY));
        let before = Page::parse("h_bucket{le=\"0.1\"} 5\nh_bucket{le=\"1\"} 5\nh_bucket{le=\"+Inf\"} 6\n");
        assert_eq!(now.quantile(&before, "h", 0.5), Some(1.0));
        assert_eq!(now.quantile(&now, "h", 0.5), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[a-z_]{0,5}(\\{|\"|=|,|\\}|\\\\| |[0-9.]|\\PC){0,60}\n?") {
            let _page = Page::parse(&text);
        }
    }
}
