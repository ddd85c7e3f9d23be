//! Generates the wire types from `akidb/v1/*.proto`, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "akidb/v1/fleet.proto";
    println!("cargo:rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["."])?;
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
