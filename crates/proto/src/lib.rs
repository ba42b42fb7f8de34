//! The wire: generated messages and gRPC stubs, and the one place where wire types become core types.
//!
//! Nobody else touches wire types outside adapters. Conversions parse once: what comes out of [`TryFrom`] is valid.

mod batch;
mod closed;
mod convert;
mod redacted;

pub use batch::{Batch, InboundDelivery, IndexDelivery, WorkDelivery};
pub use closed::{ClosedCodec, NotInSchema, decode_closed};
pub use convert::{LogEvent, WireError, from_wire_time, to_wire_time};

/// The serialized `FileDescriptorSet` of every package: for reflection and for the check of unknown fields.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sotto_descriptor.bin"));

/// The largest request over the broker (`SubmitRequest`), in bytes.
pub const MAX_SUBMIT_BYTES: usize = 256 * 1024;

/// The most messages in one of them.
pub const MAX_SUBMIT_MESSAGES: usize = 100;

/// `sotto.message`: the public interface.
pub mod message {
    /// Version 1.
    #[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("sotto.message.v1");
    }
}

/// `sotto.pipeline`: what services exchange over the broker.
pub mod pipeline {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("sotto.pipeline.v1");
    }
}

/// `sotto.privacy`: keys.
pub mod privacy {
    /// Version 1.
    #[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("sotto.privacy.v1");
    }
}

/// `sotto.identity`: clients.
pub mod identity {
    /// Version 1.
    #[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("sotto.identity.v1");
    }
}

/// `sotto.audit`: the log.
pub mod audit {
    /// Version 1.
    #[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("sotto.audit.v1");
    }
}

/// `sotto.ops`: what operators ask of running services.
pub mod ops {
    /// Version 1.
    #[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("sotto.ops.v1");
    }
}
