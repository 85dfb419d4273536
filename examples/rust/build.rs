//! Generates the client from the contract.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let services = ["recoup/v1/refund_service.proto", "recoup/v1/validation_status_service.proto"];
    let descriptors = protox::compile(services, ["../../proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}
