//! Compiles the public contract under `proto/` without a `protoc` on the machine, and keeps its descriptor set for server reflection.

use std::path::PathBuf;

const PROTOS: [&str; 4] = [
    "recoup/v1/account_service.proto",
    "recoup/v1/error_reason.proto",
    "recoup/v1/refund_service.proto",
    "recoup/v1/validation_status_service.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::Compiler::new(["proto"])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(PROTOS)?
        .file_descriptor_set();
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .file_descriptor_set_path(out_dir.join("recoup_descriptors.bin"))
        .skip_protoc_run()
        .compile_fds(descriptors)?;
    Ok(())
}
