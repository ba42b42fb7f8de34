//! The data map: what is kept of whom, where, why and for how long (docs/DATA-MAP.md).
//!
//! Fields of messages say it for themselves (`proto/sotto/data/v1/data.proto`); streams, keys, files and fields of logs have
//! it in `docs/data-map.toml`. Here both are held to the code and to the rules of confidentiality, and the page is made of them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod declared;
mod page;
mod protos;
mod sources;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    declared::{Declared, Place},
    protos::{Class, Protos},
};

/// How the page is made anew.
const REMAKE: &str = "SOTTO_UPDATE=1 cargo nextest run -p sotto-proto --test data_map";

fn root() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).to_owned()
}

/// Fails with what is in the one and not in the other.
fn same(what: &str, in_code: &BTreeSet<String>, declared: &[Place]) {
    let map: BTreeSet<String> = declared.iter().map(|place| place.name.clone()).collect();
    assert_eq!(map.len(), declared.len(), "docs/data-map.toml has a {what} twice");
    let mut problems: Vec<_> = in_code
        .difference(&map)
        .map(|name| {
            format!("{what} {name} is in the code: say in docs/data-map.toml what, why, class and kept")
        })
        .collect();
    problems.extend(
        map.difference(in_code).map(|name| {
            format!("{what} {name} is not in the code any more: take it out of docs/data-map.toml")
        }),
    );
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_field_of_every_message_says_what_it_is() {
    let protos = Protos::read(&root());
    assert!(protos.messages.len() > 80, "{} messages", protos.messages.len());
    let problems: Vec<_> = protos.messages.values().flat_map(protos::Message::problems).collect();
    assert!(problems.is_empty(), "{}\nhow: proto/sotto/data/v1/data.proto", problems.join("\n"));
}

#[test]
fn a_field_that_says_nothing_is_named() {
    let text = r#"syntax = "proto3"; package a;
        import "sotto/data/v1/data.proto";
        message Silent { string number = 1; }
        message Reasonless {
          option (sotto.data.v1.fields) = {class: CLASS_OPERATIONAL, why: "counts"};
          string number = 1 [(sotto.data.v1.field).class = CLASS_PERSONAL];
          uint32 count = 2;
          Silent inner = 3 [(sotto.data.v1.field).class = CLASS_OPERATIONAL];
        }"#;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("proto/sotto/data/v1");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::copy(root().join("proto/sotto/data/v1/data.proto"), data.join("data.proto")).unwrap();
    std::fs::write(folder.path().join("proto/a.proto"), text).unwrap();
    let protos = Protos::read(folder.path());
    let problems: Vec<_> = protos.messages.values().flat_map(protos::Message::problems).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].starts_with("a.Reasonless.number: "), "{problems:?}");
    assert!(problems[1].starts_with("a.Reasonless.inner: "), "{problems:?}");
    assert!(problems[2].starts_with("a.Silent.number: "), "{problems:?}");
}

#[test]
fn every_stream_is_in_the_map() {
    let list: toml::Table =
        std::fs::read_to_string(root().join("deploy/streams.toml")).unwrap().parse().unwrap();
    let streams = list["stream"].as_array().unwrap();
    let names = streams.iter().map(|stream| stream["name"].as_str().unwrap().to_owned()).collect();
    same("stream", &names, &Declared::read(&root()).streams);
}

#[test]
fn every_header_is_in_the_map() {
    same("header", &sources::headers(&root()), &Declared::read(&root()).headers);
}

#[test]
fn every_key_of_redis_is_in_the_map() {
    let in_code = sources::redis_keys(&root());
    let declared: Vec<_> = Declared::read(&root()).keys;
    let blank = declared.iter().map(|place| Place { name: sources::blank(&place.name), ..place.clone() });
    same("Redis key", &in_code, &blank.collect::<Vec<_>>());
}

#[test]
fn every_file_of_a_cell_is_in_the_map() {
    let (in_code, declared) = (sources::cell_files(&root()), Declared::read(&root()).files);
    // Of two names that mean a path, the one without a variable part.
    let mut meant = BTreeSet::new();
    let mut problems = Vec::new();
    for path in &in_code {
        let of: Vec<_> = declared.iter().filter(|place| sources::means(&place.name, path)).collect();
        // A folder, or a name without its end.
        let begun =
            declared.iter().any(|place| sources::blank(&place.name).starts_with(&sources::blank(path)));
        match of.iter().find(|place| place.name == *path).or(of.first()) {
            Some(place) => drop(meant.insert(place.name.clone())),
            None if begun => {}
            None => {
                problems.push(format!("file {path} is in the code: say in docs/data-map.toml what it is"))
            }
        }
    }
    let gone = declared.iter().filter(|place| !meant.contains(&place.name));
    problems.extend(gone.map(|place| format!("file {}: the code names no such file", place.name)));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_field_of_a_log_is_in_the_map() {
    same("log field", &sources::log_fields(&root()), &Declared::read(&root()).log_fields());
}

/// What breaks a rule of confidentiality, or says too little.
fn broken(protos: &Protos, places: &[(&str, Place)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (kind, place) in places {
        let name = &place.name;
        if [&place.what, &place.why, &place.kept].iter().any(|text| text.is_empty()) {
            problems.push(format!("{kind} {name}: what, why and kept are needed"));
        }
        if place.carries.is_empty() && place.class.is_none() {
            problems.push(format!("{kind} {name}: it needs its class, or the messages that it carries"));
        }
        let carried: Vec<_> = place.carries.iter().flat_map(|message| protos.reach(message)).collect();
        problems.extend(carried.iter().filter(|(_, field)| field.is_unsaid()).map(|(at, _)| {
            format!("{kind} {name}: {at} is kept and could hold anything: it says its class for itself")
        }));
        let carried = carried.into_iter().filter_map(|(at, field)| Some((at, field.data.class?)));
        let own = place.class.map(|class| ("it".to_owned(), class));
        for (at, class) in carried.chain(own) {
            let readable = matches!(class, Class::Content | Class::Personal);
            if readable || class == Class::Secret && *kind != "file" {
                problems.push(format!("{kind} {name}: {at} is {class}, which must not be there"));
            }
        }
    }
    problems
}

#[test]
fn nothing_readable_is_kept_and_what_is_kept_has_an_end() {
    let problems = broken(&Protos::read(&root()), &Declared::read(&root()).all());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn what_breaks_a_rule_is_named() {
    let (protos, declared) = (Protos::read(&root()), Declared::read(&root()));
    let stream = declared.streams[0].clone();
    let carries = |message: &str| Place { carries: vec![message.to_owned()], ..stream.clone() };
    let of = |class| Place { class: Some(class), ..stream.clone() };
    for (kind, place, problem) in [
        ("stream", carries("sotto.pipeline.v1.SealedContent"), "SealedContent.to is content"),
        ("stream", carries("sotto.privacy.v1.UnwrapKeysResponse"), "UnwrappedKey.key is secret"),
        ("key", carries("sotto.message.v1.SendRequest"), "OutboundMessage.text is content"),
        (
            "stream",
            carries("sotto.message.v1.JourneyStep"),
            "JourneyStep.detail is kept and could hold anything",
        ),
        ("file", of(Class::Personal), "it is personal"),
        ("log field", of(Class::Secret), "it is secret"),
        ("key", Place { kept: String::new(), ..stream.clone() }, "what, why and kept are needed"),
        ("key", Place { carries: Vec::new(), class: None, ..stream.clone() }, "it needs its class"),
    ] {
        let problems = broken(&protos, &[(kind, place)]).join("\n");
        assert!(problems.contains(problem), "{problem}: {problems}");
    }
    assert!(broken(&protos, &[("file", of(Class::Secret))]).is_empty(), "a cell has keys");
}

#[test]
fn the_page_tells_what_is_there_now() {
    let path = root().join("docs/DATA-MAP.md");
    let page = page::render(&Protos::read(&root()), &Declared::read(&root()));
    if std::env::var_os("SOTTO_UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/DATA-MAP.md is out of date; make it anew with: {REMAKE}");
}
