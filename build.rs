//! Compiles the public contract under `proto/` without needing `protoc`, and writes its descriptor
//! set for server reflection.

use std::path::PathBuf;

const PROTOS: [&str; 5] = [
    "recoup/v1/account_service.proto",
    "recoup/v1/audit_service.proto",
    "recoup/v1/error_reason.proto",
    "recoup/v1/refund_service.proto",
    "recoup/v1/validation_status_service.proto",
];

#[expect(clippy::disallowed_methods, reason = "cargo passes the output directory in an environment variable")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(PROTOS)?;
    // The contract's comments become those of the generated code, and reflection serves them.
    let descriptors = PathBuf::from(std::env::var("OUT_DIR")?).join("recoup_descriptors.bin");
    std::fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        // Written by hand in src/proto/streamed.rs, so that an event is encoded once for all
        // readers.
        .extern_path(".recoup.v1.StreamRefundEventsResponse", "crate::proto::v1::StreamRefundEventsResponse")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
