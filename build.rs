//! Makes messages, service and descriptors of the simulator's gRPC interface from `proto/`; needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "sim")]
    simulator()?;
    Ok(())
}

#[cfg(feature = "sim")]
fn simulator() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_source_info(true)
        .open_file("vllm_engine.proto")?;
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    // Read by clients, by reflection.
    let descriptors = std::path::Path::new(&out).join("vllm_engine.binpb");
    std::fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        // Methods that are not written answer UNIMPLEMENTED.
        .generate_default_stubs(true)
        // Written by hand, with the fields that are read: others take no memory.
        .extern_path(
            ".vllm.grpc.engine.SamplingParams",
            "crate::simulator::grpc::sampling::SamplingParams",
        )
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
