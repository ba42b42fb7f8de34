//! The protocol files, with what they say of their fields.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    ReflectMessage as _, Value,
};
use serde::{Deserialize, de::IntoDeserializer as _};

const OURS: &str = "sotto.data.v1";

/// A class of data, as in the protocol file of the annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    Secret,
    Content,
    Personal,
    Sealed,
    Pseudonym,
    Derived,
    Organisation,
    Operational,
}

impl Class {
    /// Whether each field of it says for itself why it is there.
    fn needs_a_reason(self) -> bool {
        !matches!(self, Self::Derived | Self::Organisation | Self::Operational)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// What was said of a field or of a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Data {
    pub(crate) class: Option<Class>,
    pub(crate) why: String,
    /// The name of its retention, if not that of its message.
    pub(crate) kept: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    own: Option<Data>,
    /// Whether it is a text or bytes, and so could hold anything.
    free: bool,
    /// The message of ours that it holds.
    holds: Option<String>,
    /// What holds of it.
    pub(crate) data: Data,
}

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) package: String,
    class: Option<Class>,
    pub(crate) fields: Vec<Field>,
}

impl Field {
    /// Whether it could hold anything, and nobody said that it does not.
    pub(crate) fn is_unsaid(&self) -> bool {
        let said = self.own.as_ref().is_some_and(|own| own.class.is_some());
        self.free && !said && !self.data.class.is_some_and(Class::needs_a_reason)
    }
}

impl Message {
    /// The fields that hold a value and not another message.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| field.holds.is_none())
    }

    /// What is missing, by field.
    pub(crate) fn problems(&self) -> Vec<String> {
        let of = |field: &Field| {
            if field.holds.is_some() {
                return field
                    .own
                    .as_ref()
                    .map(|_| "holds a message, which says it for itself: say nothing here");
            }
            let Some(class) = field.data.class else { return Some("has no class of data") };
            if field.data.why.is_empty() {
                return Some("does not say why it is there");
            }
            let own = field.own.as_ref().is_some_and(|own| !own.why.is_empty());
            let alone = class.needs_a_reason() && self.class != Some(class) && !own;
            alone.then_some("is confidential, and does not say for itself why it is there")
        };
        self.fields
            .iter()
            .filter_map(|field| of(field).map(|problem| format!("{}.{}: {problem}", self.name, field.name)))
            .collect()
    }
}

pub(crate) struct Protos {
    pub(crate) messages: BTreeMap<String, Message>,
    /// Name and meaning of each class and each retention, in their order.
    pub(crate) classes: Vec<(String, String)>,
    pub(crate) retentions: Vec<(String, String)>,
}

impl Protos {
    pub(crate) fn read(root: &Path) -> Self {
        let folder = root.join("proto");
        let mut compiler = protox::Compiler::new([&folder]).unwrap();
        compiler.include_source_info(true).include_imports(true);
        compiler.open_files(files(&folder)).unwrap();
        let pool = compiler.descriptor_pool();
        let options = Options::of(&pool);
        let ours = |message: &MessageDescriptor| !foreign(message);
        let messages = pool
            .all_messages()
            .filter(ours)
            .map(|message| (message.full_name().to_owned(), options.message(&message)))
            .collect();
        let told = |name: &str| {
            let named = pool.get_enum_by_name(&format!("{OURS}.{name}")).unwrap();
            let values = named.values().filter(|value| value.number() != 0);
            values.map(|value| (plain(value.name()), comment(&named.parent_file(), value.path()))).collect()
        };
        let (classes, retentions) = (told("Class"), told("Kept"));
        Self { messages, classes, retentions }
    }

    /// Every value in a message and in the messages that it holds, as `message.field`.
    pub(crate) fn reach(&self, message: &str) -> Vec<(String, &Field)> {
        self.within(message)
            .into_iter()
            .flat_map(|name| self.messages[&name].values().map(move |field| (name.clone(), field)))
            .map(|(name, field)| (format!("{name}.{}", field.name), field))
            .collect()
    }

    /// A message and those that it holds.
    pub(crate) fn within(&self, message: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut left = vec![message.to_owned()];
        while let Some(name) = left.pop() {
            let message = self.messages.get(&name).unwrap_or_else(|| {
                panic!("docs/data-map.toml: {name} is no message of proto/");
            });
            if found.insert(name) {
                left.extend(message.fields.iter().filter_map(|field| field.holds.clone()));
            }
        }
        found
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whether a message is not data of ours: of protobuf itself, or the annotation.
fn foreign(message: &MessageDescriptor) -> bool {
    message.package_name().starts_with("google.") || message.package_name() == OURS
}

struct Options {
    message: ExtensionDescriptor,
    field: ExtensionDescriptor,
}

impl Options {
    fn of(pool: &DescriptorPool) -> Self {
        let named = |name: &str| pool.get_extension_by_name(&format!("{OURS}.{name}")).unwrap();
        Self { message: named("fields"), field: named("field") }
    }

    fn message(&self, message: &MessageDescriptor) -> Message {
        let all = said(&message.options(), &self.message).unwrap_or_default();
        Message {
            name: message.full_name().to_owned(),
            package: message.package_name().to_owned(),
            fields: message.fields().map(|field| self.field(&field, &all)).collect(),
            class: all.class,
        }
    }

    fn field(&self, field: &FieldDescriptor, all: &Data) -> Field {
        let own = said(&field.options(), &self.field);
        let holds = if let Kind::Message(inner) = field.kind()
            && !foreign(&inner)
        {
            Some(inner.full_name().to_owned())
        } else {
            None
        };
        let said = own.clone().unwrap_or_default();
        let data = Data {
            class: said.class.or(all.class),
            why: if said.why.is_empty() { all.why.clone() } else { said.why },
            kept: said.kept.or_else(|| all.kept.clone()),
        };
        let free = matches!(field.kind(), Kind::String | Kind::Bytes);
        Field { name: field.name().to_owned(), own, free, holds, data }
    }
}

fn said(options: &DynamicMessage, extension: &ExtensionDescriptor) -> Option<Data> {
    options.has_extension(extension).then(|| data(&options.get_extension(extension)))
}

fn data(value: &Value) -> Data {
    let data = value.as_message().unwrap();
    let named = |name: &str| data.get_field_by_name(name).unwrap();
    let word = |name: &str| {
        let Kind::Enum(words) = data.descriptor().get_field_by_name(name).unwrap().kind() else {
            panic!("{name} is no enum");
        };
        let number = named(name).as_enum_number().unwrap();
        (number != 0).then(|| plain(words.get_value(number).unwrap().name()))
    };
    let class = word("class").map(|class| {
        Class::deserialize(class.as_str().into_deserializer()).unwrap_or_else(
            |error: serde::de::value::Error| panic!("crates/proto/tests/data_map/protos.rs: {error}"),
        )
    });
    Data { class, why: named("why").as_str().unwrap().to_owned(), kept: word("kept") }
}

/// Of `CLASS_SEALED`: `sealed`.
fn plain(value: &str) -> String {
    value.split_once('_').unwrap().1.to_lowercase()
}

/// The comment before something, as one line.
fn comment(file: &prost_reflect::FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref().unwrap();
    let location = info.location.iter().find(|location| location.path == path).unwrap();
    location.leading_comments().split_whitespace().collect::<Vec<_>>().join(" ")
}
