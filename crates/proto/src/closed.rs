//! Closed at the client edge: a request with a field that the schema does not have is refused, not cut down.
//!
//! prost drops unknown fields in silence, so a client that misspells a field, or talks to an older cell, would have
//! its message sent without it (PRV-8). [`ClosedCodec`] walks the wire bytes of every request of the public package
//! against the descriptor before decoding, and names the field that is unknown, of another wire type or not UTF-8.
//! Responses, and requests between services, stay tolerant, so that two versions can run side by side. Requests that
//! come over the broker are held to the same by [`decode_closed`].

use std::{collections::HashMap, fmt, marker::PhantomData, sync::OnceLock};

use bytes::Buf as _;
use prost::{Message, Name, encoding::decode_varint};
use prost_types::{
    FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::message::v1::{FieldViolation as WireViolation, SendError};

/// The package whose requests come from clients; `build.rs` gives this codec to its services.
const PUBLIC_PACKAGE: &str = "sotto.message.v1";

/// Nested deeper than this, a request is refused: ours nest twice.
const MAX_DEPTH: usize = 16;

/// The codec of the public services: prost, behind the check of requests.
#[derive(Debug)]
pub struct ClosedCodec<T, U> {
    inner: ProstCodec<T, U>,
}

impl<T, U> Default for ClosedCodec<T, U> {
    fn default() -> Self {
        Self { inner: ProstCodec::default() }
    }
}

impl<T, U> Codec for ClosedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ClosedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        self.inner.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        let closed = U::PACKAGE == PUBLIC_PACKAGE && U::NAME.ends_with("Request");
        ClosedDecoder { inner: self.inner.decoder(), closed, of: PhantomData }
    }
}

/// The decoder of [`ClosedCodec`].
#[derive(Debug)]
pub struct ClosedDecoder<U> {
    inner: ProstDecoder<U>,
    closed: bool,
    of: PhantomData<U>,
}

impl<U: Message + Name + Default> Decoder for ClosedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if !self.closed {
            return self.inner.decode(buf);
        }
        let bytes = buf.copy_to_bytes(buf.remaining());
        decode_closed(&bytes).map(Some).map_err(Status::from)
    }
}

/// Decodes a message that may hold nothing but what its schema has.
///
/// # Errors
/// What is not in the schema, or not protobuf at all; no value of it.
pub fn decode_closed<M: Message + Name + Default>(bytes: &[u8]) -> Result<M, NotInSchema> {
    check(&M::full_name(), bytes)?;
    M::decode(bytes).map_err(|_| NotInSchema::Malformed)
}

/// Why a request is not what its schema says. Paths lead from the request to the field: `message.to`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInSchema {
    /// A field that the schema does not have.
    #[error(
        "field {path} is not in this version of the schema: remove it or check the client's .proto files"
    )]
    Field {
        /// The path, with the field's number at its end.
        path: String,
    },
    /// A field that the schema has with another wire type.
    #[error("{path} has another type in this version of the schema: check the client's .proto files")]
    WireType {
        /// The path.
        path: String,
    },
    /// A text that is not UTF-8.
    #[error("{path} is not UTF-8")]
    NotUtf8 {
        /// The path.
        path: String,
    },
    /// Not protobuf, or nested too deeply.
    #[error("the request is not a protobuf message")]
    Malformed,
}

impl NotInSchema {
    /// The path of the field, and the stable name of the rule that it breaks.
    fn place(self) -> (String, &'static str) {
        match self {
            Self::Field { path } => (path, "UNKNOWN_FIELD"),
            Self::WireType { path } => (path, "WIRE_TYPE"),
            Self::NotUtf8 { path } => (path, "NOT_UTF8"),
            Self::Malformed => (String::new(), "MALFORMED"),
        }
    }
}

impl From<NotInSchema> for SendError {
    fn from(unknown: NotInSchema) -> Self {
        let message = unknown.to_string();
        let (field, reason) = unknown.place();
        let violation = WireViolation { field, reason: reason.to_owned(), description: message.clone() };
        let code = tonic::Code::InvalidArgument.into();
        Self { code, message, field_violations: vec![violation], retry_after: None }
    }
}

impl From<NotInSchema> for Status {
    fn from(unknown: NotInSchema) -> Self {
        let description = unknown.to_string();
        let (field, reason) = unknown.place();
        let mut details = ErrorDetails::new();
        details.set_bad_request(vec![FieldViolation {
            field,
            description: description.clone(),
            reason: reason.to_owned(),
            localized_message: None,
        }]);
        Self::with_error_details(tonic::Code::InvalidArgument, description, details)
    }
}

/// What a field holds.
enum Kind {
    /// A message of this full name.
    Message(String),
    Text,
    Bytes,
    Varint,
    Fixed32,
    Fixed64,
}

struct Field {
    name: String,
    kind: Kind,
    repeated: bool,
}

impl Field {
    /// Whether the wire may carry it so: as its own type, or packed.
    const fn comes_as(&self, wire_type: u64) -> bool {
        match (&self.kind, wire_type) {
            (Kind::Message(_) | Kind::Text | Kind::Bytes, 2)
            | (Kind::Varint, 0)
            | (Kind::Fixed32, 5)
            | (Kind::Fixed64, 1) => true,
            (Kind::Varint | Kind::Fixed32 | Kind::Fixed64, 2) => self.repeated,
            (
                Kind::Message(_) | Kind::Text | Kind::Bytes | Kind::Varint | Kind::Fixed32 | Kind::Fixed64,
                _,
            ) => false,
        }
    }
}

type Schema = HashMap<String, HashMap<u64, Field>>;

fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        // Embedded at build time: if it did not decode, every request would be refused and every test fail.
        let files = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap_or_default();
        let mut schema = Schema::new();
        for file in &files.file {
            for message in &file.message_type {
                collect(file.package(), message, &mut schema);
            }
        }
        schema
    })
}

fn collect(scope: &str, message: &prost_types::DescriptorProto, schema: &mut Schema) {
    let full_name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        collect(&full_name, nested, schema);
    }
    let fields = message.field.iter().map(|field| {
        let kind = match field.r#type() {
            Type::Message | Type::Group => {
                Kind::Message(field.type_name().trim_start_matches('.').to_owned())
            }
            Type::String => Kind::Text,
            Type::Bytes => Kind::Bytes,
            Type::Double | Type::Fixed64 | Type::Sfixed64 => Kind::Fixed64,
            Type::Float | Type::Fixed32 | Type::Sfixed32 => Kind::Fixed32,
            Type::Int64
            | Type::Uint64
            | Type::Int32
            | Type::Uint32
            | Type::Bool
            | Type::Enum
            | Type::Sint32
            | Type::Sint64 => Kind::Varint,
        };
        let repeated = field.label() == Label::Repeated;
        let number = u64::try_from(field.number()).unwrap_or(0);
        (number, Field { name: field.name().to_owned(), kind, repeated })
    });
    schema.insert(full_name, fields.collect());
}

/// Checks that the bytes hold only what the message, and the messages in it, have.
pub(crate) fn check(full_name: &str, bytes: &[u8]) -> Result<(), NotInSchema> {
    walk(full_name, "", bytes, 0)
}

fn walk(full_name: &str, path: &str, mut bytes: &[u8], depth: usize) -> Result<(), NotInSchema> {
    let fields = schema().get(full_name).filter(|_| depth < MAX_DEPTH).ok_or(NotInSchema::Malformed)?;
    let place = |name: &dyn fmt::Display| {
        if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
    };
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let (number, wire_type) = (key >> 3, key & 7);
        let field = fields.get(&number).ok_or_else(|| NotInSchema::Field { path: place(&number) })?;
        if !field.comes_as(wire_type) {
            return Err(NotInSchema::WireType { path: place(&field.name) });
        }
        match wire_type {
            0 => drop(varint(&mut bytes)?),
            1 => drop(take(&mut bytes, 8)?),
            5 => drop(take(&mut bytes, 4)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| NotInSchema::Malformed)?;
                let content = take(&mut bytes, length)?;
                match &field.kind {
                    Kind::Message(message) => walk(message, &place(&field.name), content, depth + 1)?,
                    Kind::Text if std::str::from_utf8(content).is_err() => {
                        return Err(NotInSchema::NotUtf8 { path: place(&field.name) });
                    }
                    Kind::Text | Kind::Bytes | Kind::Varint | Kind::Fixed32 | Kind::Fixed64 => {}
                }
            }
            // Groups are not in proto3.
            _ => return Err(NotInSchema::Malformed),
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, NotInSchema> {
    decode_varint(bytes).map_err(|_| NotInSchema::Malformed)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], NotInSchema> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(NotInSchema::Malformed)?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::v1::{OutboundMessage, SendRequest};

    const REQUEST: &str = "sotto.message.v1.SendRequest";

    fn request() -> SendRequest {
        SendRequest {
            message: Some(OutboundMessage {
                to: "+84912345678".to_owned(),
                from: "ACME".to_owned(),
                text: "hi".to_owned(),
                class: 1,
                validity: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
                ..Default::default()
            }),
            idempotency_key: "k".to_owned(),
            ..SendRequest::default()
        }
    }

    #[test]
    fn what_the_schema_has_passes() {
        assert_eq!(check(REQUEST, &request().encode_to_vec()), Ok(()));
        assert_eq!(check(REQUEST, &[]), Ok(()));
    }

    #[test]
    fn an_unknown_field_is_named_at_any_depth() {
        let mut bytes = request().encode_to_vec();
        bytes.extend([0x98, 0x06, 1]);
        let outer = NotInSchema::Field { path: "99".to_owned() };
        assert_eq!(check(REQUEST, &bytes), Err(outer));

        let mut message = request().message.unwrap().encode_to_vec();
        message.extend([0x7a, 1, b'x']);
        let mut bytes = vec![0x0a, u8::try_from(message.len()).unwrap()];
        bytes.extend(message);
        let inner = NotInSchema::Field { path: "message.15".to_owned() };
        assert_eq!(check(REQUEST, &bytes), Err(inner.clone()));
        assert!(Status::from(inner).message().contains("field message.15"));
    }

    #[test]
    fn what_is_no_such_request_is_told_by_field() {
        let path = || "message.text".to_owned();
        // message { text: <bytes> }, message { text: varint }, idempotency_key: fixed32, a field cut short, a group.
        for (bytes, why) in [
            (&[0x0a, 4, 0x1a, 2, 0xc3, 0x28][..], NotInSchema::NotUtf8 { path: path() }),
            (&[0x0a, 2, 0x18, 1], NotInSchema::WireType { path: path() }),
            (&[0x15, 0, 0, 0, 0], NotInSchema::WireType { path: "idempotency_key".to_owned() }),
            (&[0x0a, 4, 0x1a, 2, b'h'], NotInSchema::Malformed),
            (&[0x0b, 0x0c], NotInSchema::WireType { path: "message".to_owned() }),
        ] {
            assert_eq!(check(REQUEST, bytes), Err(why), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic_and_what_passes_decodes(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if check(REQUEST, &bytes).is_ok() {
                prop_assert!(SendRequest::decode(bytes.as_slice()).is_ok());
            }
        }
    }
}
