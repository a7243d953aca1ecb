//! Makes Rust from the `.proto` files with protox: no `protoc` is needed on the machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "ollamax/v1/peer.proto",
        "ollamax/v1/admin.proto",
        "ollamax/v1/kv.proto",
        "ollamax/v1/raft.proto",
        "ollamax/v1/events.proto",
        "ollamax/v1/backup.proto",
        "ollamax/v1/migrate.proto",
        "ollamax/v1/models.proto",
        "ollamax/v1/tools.proto",
        "ollamax/v1/transfer.proto",
        "ollamax/disk/v1/disk.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        .bytes(".ollamax.v1.DispatchReply")
        .bytes(".ollamax.v1.ImportOrder")
        .bytes(".ollamax.v1.ImportModelRequest")
        .bytes(".ollamax.v1.DispatchRequest.body")
        .bytes(".ollamax.v1.ExportPart")
        .bytes(".ollamax.v1.ImportPart")
        .bytes(".ollamax.v1.CreatePart")
        .bytes(".ollamax.v1.CreateHead.body")
        .bytes(".ollamax.v1.RuntimeOrder")
        .bytes(".ollamax.v1.RuntimeCreate.body")
        .bytes(".ollamax.v1.ManifestBytes")
        .bytes(".ollamax.v1.HashesPart.hashes")
        .bytes(".ollamax.v1.RaftMessage.body")
        .bytes(".ollamax.v1.RaftCall.body")
        .bytes(".ollamax.v1.RaftAnswer.body")
        .bytes(".ollamax.disk.v1.LogRecord.envelope")
        .bytes(".ollamax.disk.v1.RaftAppend.records")
        .bytes(".ollamax.disk.v1.RaftPropose.envelope")
        .bytes(".ollamax.disk.v1.RaftSnapshotChunk.data")
        .compile_fds(descriptors)?;
    Ok(())
}
