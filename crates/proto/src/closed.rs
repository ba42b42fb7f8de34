//! Closed at the client edge: a request with a field that the schema does not have is refused, not cut down.
//!
//! prost drops unknown fields in silence, so a client that misspells a field, or talks to an older cell, would have
//! its message sent without it (PRV-8). [`ClosedCodec`] walks the wire bytes of every request of the public packages
//! against the descriptor before decoding. Responses, and requests between services, stay tolerant, so that two
//! versions can run side by side.

use std::{collections::HashMap, marker::PhantomData, sync::OnceLock};

use bytes::Buf as _;
use prost::{Message, Name, encoding::decode_varint};
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// Packages whose requests come from outside.
const PUBLIC_PACKAGES: &[&str] = &["sotto.message.v1", "sotto.identity.v1"];

/// Nested deeper than this, a request is refused: ours nest twice.
const MAX_DEPTH: usize = 16;

/// The codec of every service: prost, behind the check of public requests.
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
        let closed = PUBLIC_PACKAGES.contains(&U::PACKAGE) && U::NAME.ends_with("Request");
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
        check(&U::full_name(), &bytes).map_err(Status::from)?;
        U::decode(bytes).map(Some).map_err(|_| Unknown::Malformed.into())
    }
}

/// Why a request is not what its schema says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unknown {
    /// A field that the schema does not have.
    #[error(
        "field {number} of {path} is not in this version of the schema: remove it or check the client's .proto files"
    )]
    Field {
        /// The message, by the path of fields that leads to it.
        path: String,
        /// The field's number.
        number: u64,
    },
    /// Not protobuf, or nested too deeply.
    #[error("the request is not a valid protobuf message of its type (texts must be UTF-8)")]
    Malformed,
}

impl From<Unknown> for Status {
    fn from(unknown: Unknown) -> Self {
        let (field, reason) = match &unknown {
            Unknown::Field { path, number } => (format!("{path}.{number}"), "UNKNOWN_FIELD"),
            Unknown::Malformed => (String::new(), "MALFORMED"),
        };
        let mut details = ErrorDetails::new();
        details.set_bad_request(vec![FieldViolation {
            field,
            description: unknown.to_string(),
            reason: reason.to_owned(),
            localized_message: None,
        }]);
        Self::with_error_details(tonic::Code::InvalidArgument, unknown.to_string(), details)
    }
}

/// A field: its name and, if it holds a message, that message's full name.
struct Field {
    name: String,
    message: Option<String>,
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
    let fields = message
        .field
        .iter()
        .map(|field| {
            let is_message = field.r#type() == Type::Message;
            let message = is_message.then(|| field.type_name().trim_start_matches('.').to_owned());
            let number = u64::try_from(field.number()).unwrap_or(0);
            (number, Field { name: field.name().to_owned(), message })
        })
        .collect();
    schema.insert(full_name, fields);
}

/// Checks that the bytes hold only fields that the message, and the messages in it, have.
pub(crate) fn check(full_name: &str, bytes: &[u8]) -> Result<(), Unknown> {
    let short = full_name.rsplit('.').next().unwrap_or(full_name);
    walk(full_name, short, bytes, 0)
}

fn walk(full_name: &str, path: &str, mut bytes: &[u8], depth: usize) -> Result<(), Unknown> {
    let fields = schema().get(full_name).filter(|_| depth < MAX_DEPTH).ok_or(Unknown::Malformed)?;
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let (number, wire_type) = (key >> 3, key & 7);
        let field = fields.get(&number).ok_or_else(|| Unknown::Field { path: path.to_owned(), number })?;
        match wire_type {
            0 => drop(varint(&mut bytes)?),
            1 => drop(take(&mut bytes, 8)?),
            5 => drop(take(&mut bytes, 4)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| Unknown::Malformed)?;
                let content = take(&mut bytes, length)?;
                if let Some(message) = &field.message {
                    walk(message, &format!("{path}.{}", field.name), content, depth + 1)?;
                }
            }
            // Groups are not in proto3.
            _ => return Err(Unknown::Malformed),
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Unknown> {
    decode_varint(bytes).map_err(|_| Unknown::Malformed)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Unknown> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(Unknown::Malformed)?;
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
            }),
            idempotency_key: "k".to_owned(),
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
        let outer = Unknown::Field { path: "SendRequest".to_owned(), number: 99 };
        assert_eq!(check(REQUEST, &bytes), Err(outer));

        let mut message = request().message.unwrap().encode_to_vec();
        message.extend([0x3a, 1, b'x']);
        let mut bytes = vec![0x0a, u8::try_from(message.len()).unwrap()];
        bytes.extend(message);
        let inner = Unknown::Field { path: "SendRequest.message".to_owned(), number: 7 };
        assert_eq!(check(REQUEST, &bytes), Err(inner.clone()));
        assert!(Status::from(inner).message().contains("field 7 of SendRequest.message"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(check(REQUEST, &bytes));
        }
    }
}
