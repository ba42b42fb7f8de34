//! `docs/data-map.toml`: what is not a message.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use crate::protos::Class;

/// Where something lies.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) what: String,
    pub(crate) why: String,
    /// Where it carries messages: of its name, or of its subjects.
    pub(crate) class: Option<Class>,
    /// The messages in it, by their full names.
    #[serde(default)]
    pub(crate) carries: Vec<String>,
    pub(crate) kept: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Declared {
    #[serde(rename = "stream")]
    pub(crate) streams: Vec<Place>,
    #[serde(rename = "header")]
    pub(crate) headers: Vec<Place>,
    #[serde(rename = "key")]
    pub(crate) keys: Vec<Place>,
    #[serde(rename = "file")]
    pub(crate) files: Vec<Place>,
    log: Log,
}

/// All fields of logs and spans are there for one reason and stay as long as the log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    why: String,
    kept: String,
    fields: BTreeMap<String, (Class, String)>,
}

impl Declared {
    pub(crate) fn read(root: &Path) -> Self {
        let text = std::fs::read_to_string(root.join("docs/data-map.toml")).unwrap();
        toml::from_str(&text).unwrap()
    }

    pub(crate) fn log_fields(&self) -> Vec<Place> {
        let place = |(name, (class, what)): (&String, &(Class, String))| Place {
            name: name.clone(),
            what: what.clone(),
            why: self.log.why.clone(),
            class: Some(*class),
            carries: Vec::new(),
            kept: self.log.kept.clone(),
        };
        self.log.fields.iter().map(place).collect()
    }

    pub(crate) fn log(&self) -> (&str, &str) {
        (&self.log.why, &self.log.kept)
    }

    /// Everything, with its kind.
    pub(crate) fn all(&self) -> Vec<(&'static str, Place)> {
        let of =
            |kind, places: &[Place]| places.iter().map(|place| (kind, place.clone())).collect::<Vec<_>>();
        let logs = self.log_fields();
        [
            of("stream", &self.streams),
            of("header", &self.headers),
            of("key", &self.keys),
            of("file", &self.files),
            of("log field", &logs),
        ]
        .concat()
    }
}
