//! Compiles the protocol files with a pure Rust compiler: users need no protoc.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

/// Messages that hold numbers, senders, texts, keys or secrets: their `Debug` is written by hand and prints nothing.
const SENSITIVE: &[&str] = &[
    ".sotto.message.v1.OutboundMessage",
    ".sotto.message.v1.SendRequest",
    ".sotto.message.v1.SendStreamRequest",
    ".sotto.message.v1.Submission",
    ".sotto.message.v1.FindMessagesRequest",
    ".sotto.ops.v1.TestMessage",
    ".sotto.pipeline.v1.SealedContent",
    ".sotto.pipeline.v1.InboundContent",
    ".sotto.privacy.v1.CreateSessionKeyResponse",
    ".sotto.privacy.v1.CreateInboundKeyResponse",
    ".sotto.privacy.v1.BucketPseudonym",
    ".sotto.privacy.v1.UnwrappedKey",
    ".sotto.privacy.v1.UnwrappedKey.result",
    ".sotto.identity.v1.RedeemInvitationRequest",
    ".sotto.identity.v1.RedeemInvitationResponse",
    ".sotto.identity.v1.CreateClientResponse",
];

/// What clients see. Its services decode with `crate::ClosedCodec`, which refuses what the schema does not have.
const PUBLIC_FILES: &[&str] = &["sotto/message/v1/message.proto", "sotto/message/v1/submission.proto"];

const FILES: &[&str] = &[
    "sotto/message/v1/message.proto",
    "sotto/message/v1/submission.proto",
    "sotto/pipeline/v1/pipeline.proto",
    "sotto/privacy/v1/privacy.proto",
    "sotto/identity/v1/identity.proto",
    "sotto/audit/v1/audit.proto",
    "sotto/ops/v1/ops.proto",
];

const ANNOTATIONS: &[&str] = &["sotto/data/v1/data.proto", "google/protobuf/descriptor.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let descriptors = compile(FILES)?;
    fs::write(out.join("sotto_descriptor.bin"), descriptors.encode_to_vec())?;
    let stubs = || tonic_prost_build::configure().build_transport(true);
    stubs().compile_fds_with_config(descriptors, messages())?;
    // The codec is one for all services of a compilation, so the public files are compiled once more, over the first.
    let public = compile(PUBLIC_FILES)?;
    stubs().codec_path("crate::ClosedCodec").compile_fds_with_config(public, messages())?;
    Ok(())
}

/// Without what fields say of themselves: that is for the data map, and neither in the stubs nor told by reflection.
fn compile(files: &[&str]) -> Result<prost_types::FileDescriptorSet, protox::Error> {
    let mut set = protox::compile(files, ["../../proto"])?;
    set.file.retain(|file| !ANNOTATIONS.contains(&file.name()));
    for file in &mut set.file {
        file.dependency.retain(|name| !ANNOTATIONS.contains(&name.as_str()));
    }
    Ok(set)
}

fn messages() -> tonic_prost_build::Config {
    let mut config = tonic_prost_build::Config::new();
    config.bytes(["."]);
    config.enable_type_names();
    config.skip_debug(SENSITIVE.iter().copied());
    config
}
