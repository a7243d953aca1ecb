//! `ollamax model import` of a bundle: a model that another site exported comes to this node, or is only checked.
//!
//! The file is sent as it is; the daemon reads it with suspicion and tells how far it is. Whatever is wrong with it is
//! the daemon's to say.

use std::future::pending;
use std::io;
use std::path::Path;

use serde_json::json;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

use ollamax_proto::v1::import_part::Part;
use ollamax_proto::v1::pull_progress::Stage;
use ollamax_proto::v1::{ImportHead, ImportPart, PullProgress};

use crate::args::{Global, ImportArgs, Output};
use crate::client;
use crate::error::{Failure, request_id};
use crate::{output, text};

use super::pull::{self, Rows};
use super::{CHUNK_BYTES, CHUNKS_WAITING_MAX, unread};

/// Standard input, as a file.
const STDIN: &str = "-";
/// Where a file of tar says that it is one.
const MAGIC_AT: u64 = 257;
/// How it says so.
const MAGIC: &[u8; 5] = b"ustar";

/// Whether this file is taken for a bundle; what standard input gives always is.
pub(super) fn is_one(file: &Path) -> bool {
    use std::io::{Read as _, Seek as _, SeekFrom};

    if file == Path::new(STDIN) {
        return true;
    }
    let mut magic = [0; MAGIC.len()];
    let read = std::fs::File::open(file).and_then(|mut opened| {
        opened.seek(SeekFrom::Start(MAGIC_AT))?;
        opened.read_exact(&mut magic)
    });
    read.is_ok() && magic == *MAGIC
}

/// Sends it and follows what becomes of it.
pub(super) async fn run(global: &Global, args: ImportArgs) -> Result<(), Failure> {
    let ImportArgs { file, name, nodes, replace, check } = args;
    if !nodes.is_empty() {
        let next =
            format!("ollamax model import {}, then: ollamax model pull NAME --node {}", file.display(), nodes[0]);
        return Err(Failure::usage("a bundle comes to this node", next));
    }
    let head = ImportHead { name: name.unwrap_or_default(), only_check: check, replace };
    let mut rows = Rows::new(output::may_draw(global.output));
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    let last = tokio::select! {
        biased;
        last = follow(global, receiver, &mut rows) => last,
        failure = read(&file, head, sender) => Err(failure),
    };
    rows.clear();
    let last = last?;
    if last.stage() != Stage::Done {
        let next = "repeat the command: what came so far is kept";
        return Err(Failure::new(7, "the daemon ended before the import did", "it is stopping", next));
    }
    show(global, &last, check)
}

fn show(global: &Global, last: &PullProgress, check: bool) -> Result<(), Failure> {
    let name = &last.name;
    if global.output == Output::Json {
        let (bytes, files) = (last.total_bytes, last.blobs.len());
        if check {
            let digest = hex::encode(&last.digest);
            let fields = json!({"name": name, "digest": digest, "bytes": bytes, "files": files});
            return output::json("BundleCheck", fields);
        }
        return output::json("ModelImport", json!({"name": name, "copies": [pull::copy(last)]}));
    }
    if check {
        let (digest, size) = (text::digest(&last.digest), text::bytes(last.total_bytes));
        return output::line(&format!("{name} ({digest}) is whole: {} files, {size}", last.blobs.len()));
    }
    output::line(&pull::told(last))?;
    output::talk(global.output, &format!("Next: ollamax model pull {name} --replicas 2"));
    Ok(())
}

/// What the daemon says last.
async fn follow(
    global: &Global,
    receiver: mpsc::Receiver<ImportPart>,
    rows: &mut Rows,
) -> Result<PullProgress, Failure> {
    let next = |mut receiver: mpsc::Receiver<ImportPart>| async {
        let part = receiver.recv().await?;
        Some((part, receiver))
    };
    let parts = futures::stream::unfold(receiver, next);
    let answer = client::connect_models(global).await?.import(parts).await?;
    let (id, mut told) = (request_id(answer.metadata()), answer.into_inner());
    let mut last = PullProgress::default();
    while let Some(progress) = told.message().await.map_err(|status| Failure::from(status).with_request_id(&id))? {
        rows.show(&progress);
        last = progress;
    }
    Ok(last)
}

/// Reads the file piece by piece. It returns only when that fails: how the import ends is the daemon's to say.
async fn read(file: &Path, head: ImportHead, sender: mpsc::Sender<ImportPart>) -> Failure {
    let failed = |error: io::Error| unread(file, &error);
    let sent = if file == Path::new(STDIN) {
        send(tokio::io::stdin(), head, sender).await
    } else {
        match File::open(file).await {
            Ok(opened) => send(opened, head, sender).await,
            Err(error) => Err(error),
        }
    };
    match sent {
        Ok(()) => pending().await,
        Err(error) => failed(error),
    }
}

/// Ends with the bytes, and when the daemon gives up.
async fn send(mut from: impl AsyncRead + Unpin, head: ImportHead, sender: mpsc::Sender<ImportPart>) -> io::Result<()> {
    let mut part = Part::Head(head);
    while sender.send(ImportPart { part: Some(part) }).await.is_ok() {
        let mut data = Vec::with_capacity(CHUNK_BYTES);
        if (&mut from).take(CHUNK_BYTES as u64).read_to_end(&mut data).await? == 0 {
            break;
        }
        part = Part::Data(data.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_told_by_what_a_file_of_tar_says_of_itself() {
        let folder = tempfile::tempdir().expect("temp");
        let path = folder.path().join("f");
        let check = |bytes: &[u8], expected: bool| {
            std::fs::write(&path, bytes).expect("room");
            assert_eq!(is_one(&path), expected, "{} bytes", bytes.len());
        };
        check(b"", false);
        check(b"GGUF", false);
        check(&[0; 512], false);
        let mut tar = [0; 512];
        tar[257..262].copy_from_slice(MAGIC);
        check(&tar, true);
        check(&tar[..262], true);
        check(&tar[..261], false);
        assert!(!is_one(&folder.path().join("missing")));
        assert!(is_one(Path::new(STDIN)));
    }

    #[tokio::test]
    async fn a_file_is_sent_in_pieces_behind_its_head() {
        let (sender, mut receiver) = mpsc::channel(8);
        let bytes = vec![7; CHUNK_BYTES + 5];
        let head = ImportHead { only_check: true, ..ImportHead::default() };
        send(&bytes[..], head.clone(), sender).await.expect("memory");
        let mut sent = Vec::new();
        while let Some(part) = receiver.recv().await {
            sent.push(part.part.expect("each has something"));
        }
        assert_eq!(sent[0], Part::Head(head));
        let lengths = sent[1..].iter().map(|part| match part {
            Part::Data(data) => data.len(),
            Part::Head(_) => 0,
        });
        assert_eq!(lengths.collect::<Vec<_>>(), [CHUNK_BYTES, 5]);
    }
}
