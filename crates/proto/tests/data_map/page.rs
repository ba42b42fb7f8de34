//! docs/DATA-MAP.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use crate::{
    REMAKE,
    declared::{Declared, Place},
    protos::{Class, Message, Protos},
};

const HEAD: &str = "\
# What is kept, where, why and for how long

Every field of every message, stream, header, Redis key, file of a cell and log line. This page is made, not written: fields of messages say
it in the protocol files ([data.proto](../proto/sotto/data/v1/data.proto)), the rest stands in [data-map.toml](data-map.toml).
`crates/proto/tests/data_map` fails when something in the code is not here, when this page is out of date, or when a rule is broken:

- no `content` and nothing `personal` in a stream, in Redis, in a file or in a log: only `sealed`;
- no `secret` in a stream, in Redis or in a log;
- a text or bytes that is kept says its class for itself, and does not take that of its message;
- what is kept says for how long.

";

const FIELDS: &str = "\
## Fields of messages

*kept*: `as …` stays as long as what it lies in, told above; `call` is gone when the call is over. A field that holds another message
is left out: look at that message. An empty cell says what the cell above it says.
";

/// The page. Writing to a String cannot fail.
pub(crate) fn render(protos: &Protos, declared: &Declared) -> String {
    let mut page = HEAD.to_owned();
    let _written = writeln!(page, "Make it anew: `{REMAKE}`\n\n## Classes\n");
    legend(&mut page, "class", "what", &protos.classes);
    for (title, places) in [
        ("In the broker", &declared.streams),
        ("Headers of records in the broker", &declared.headers),
        ("In Redis", &declared.keys),
        ("Files of a cell", &declared.files),
    ] {
        let _written = writeln!(page, "\n## {title}\n");
        table(&mut page, &["name", "what", "why", "class", "kept"]);
        for place in places {
            row(
                &mut page,
                &[
                    code(&place.name),
                    what(place),
                    place.why.clone(),
                    classes(protos, place),
                    place.kept.clone(),
                ],
            );
        }
    }
    logs(&mut page, declared);
    let _written = writeln!(page, "\n{FIELDS}");
    legend(&mut page, "kept", "what", &protos.retentions);
    fields(&mut page, protos, declared);
    page
}

fn logs(page: &mut String, declared: &Declared) {
    let (why, kept) = declared.log();
    let _written = writeln!(
        page,
        "\n## Logs and traces\n\nA line has its time, level and module, a sentence that is a constant, and some of these fields; so has \
         a span.\nWhy: {why}. Kept: {kept}.\n"
    );
    let mut by_class = BTreeMap::<Class, Vec<Place>>::new();
    for field in declared.log_fields() {
        by_class.entry(field.class.unwrap()).or_default().push(field);
    }
    table(page, &["class", "field", "what"]);
    for (class, fields) in by_class {
        for field in fields {
            row(page, &[class.to_string(), code(&field.name), field.what]);
        }
    }
}

fn fields(page: &mut String, protos: &Protos, declared: &Declared) {
    let mut lies = BTreeMap::<String, Vec<String>>::new();
    for (_, place) in declared.all() {
        let within: BTreeSet<_> = place.carries.iter().flat_map(|message| protos.within(message)).collect();
        for message in within {
            lies.entry(message).or_default().push(code(&place.name));
        }
    }
    let mut package = "";
    for message in protos.messages.values().filter(|message| message.values().next().is_some()) {
        if message.package != package {
            package = &message.package;
            let _written = writeln!(page, "\n### {package}\n");
            table(page, &["message", "fields", "class", "why", "kept"]);
        }
        let of = lies.get(&message.name);
        let stays = of.map_or_else(|| "call".to_owned(), |places| format!("as {}", places.join(", ")));
        rows(page, message, &stays);
    }
}

/// Class, why and kept.
type Said<'a> = (Class, &'a str, String);

/// One row for the fields of which the same is said.
fn rows(page: &mut String, message: &Message, stays: &str) {
    let mut groups = Vec::<(Said<'_>, Vec<String>)>::new();
    for field in message.values() {
        let kept = field.data.kept.clone().unwrap_or_else(|| stays.to_owned());
        let said = (field.data.class.unwrap(), field.data.why.as_str(), kept);
        match groups.iter_mut().find(|(group, _)| *group == said) {
            Some((_, names)) => names.push(code(&field.name)),
            None => groups.push((said, vec![code(&field.name)])),
        }
    }
    let short = message.name.strip_prefix(&format!("{}.", message.package)).unwrap();
    let mut before = (String::new(), String::new());
    for (index, ((class, why, kept), names)) in groups.into_iter().enumerate() {
        let new = |text: String, old: &str| if text == old { String::new() } else { text };
        let name = if index == 0 { short.to_owned() } else { String::new() };
        let (told, stays) = (new(why.to_owned(), &before.0), new(kept.clone(), &before.1));
        row(page, &[name, names.join(", "), class.to_string(), told, stays]);
        before = (why.to_owned(), kept);
    }
}

fn what(place: &Place) -> String {
    let short = place.carries.iter().map(|message| format!("`{}`", message.rsplit('.').next().unwrap()));
    let short: Vec<_> = short.collect();
    if short.is_empty() { place.what.clone() } else { format!("{} ({})", place.what, short.join(", ")) }
}

/// The classes in a place, the most confidential first.
fn classes(protos: &Protos, place: &Place) -> String {
    let carried = place
        .carries
        .iter()
        .flat_map(|message| protos.reach(message))
        .map(|(_, field)| field.data.class.unwrap());
    let all: BTreeSet<_> = carried.chain(place.class).collect();
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn legend(page: &mut String, left: &str, right: &str, lines: &[(String, String)]) {
    table(page, &[left, right]);
    for (name, meaning) in lines {
        row(page, &[code(name), meaning.clone()]);
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn table(page: &mut String, heads: &[&str]) {
    row(page, &heads.iter().map(|&head| head.to_owned()).collect::<Vec<_>>());
    let _written = writeln!(page, "|{}", "---|".repeat(heads.len()));
}

fn row(page: &mut String, cells: &[String]) {
    let _written = writeln!(page, "| {} |", cells.join(" | "));
}
