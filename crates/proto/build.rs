//! Compiles the protocol files with a pure Rust compiler: users need no protoc.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

/// Messages that hold numbers, senders, texts, keys or secrets: their `Debug` is written by hand and prints nothing.
const SENSITIVE: &[&str] = &[
    ".sotto.message.v1.OutboundMessage",
    ".sotto.pipeline.v1.SealedContent",
    ".sotto.privacy.v1.CreateSessionKeyResponse",
    ".sotto.privacy.v1.UnwrappedKey",
    ".sotto.privacy.v1.UnwrappedKey.result",
    ".sotto.identity.v1.RedeemInvitationRequest",
    ".sotto.identity.v1.RedeemInvitationResponse",
    ".sotto.identity.v1.CreateClientResponse",
];

const FILES: &[&str] = &[
    "sotto/message/v1/message.proto",
    "sotto/pipeline/v1/pipeline.proto",
    "sotto/privacy/v1/privacy.proto",
    "sotto/identity/v1/identity.proto",
    "sotto/audit/v1/audit.proto",
    "sotto/ops/v1/ops.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["../../proto"])?;
    fs::write(out.join("sotto_descriptor.bin"), descriptors.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    config.bytes(["."]);
    config.enable_type_names();
    config.skip_debug(SENSITIVE.iter().copied());
    tonic_prost_build::configure().build_transport(true).compile_fds_with_config(descriptors, config)?;
    Ok(())
}
