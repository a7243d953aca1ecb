//! `ollamax model export`: a model of this node as one file.
//!
//! The file appears under its name when all of it is there and on disk; until then it is `FILE.part`, which goes when
//! something breaks off. Nothing is written over.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tonic::Streaming;

use ollamax_proto::v1::export_part::Part;
use ollamax_proto::v1::{ExportHead, ExportPart, ExportRequest};

use crate::args::{Global, Output};
use crate::client;
use crate::error::{Failure, request_id};
use crate::{output, text};

/// Standard output, as a file.
const STDOUT: &str = "-";

/// The file on its way, which goes with this unless it got its name.
struct Draft<'a> {
    path: PathBuf,
    name: &'a Path,
}

/// What was written.
struct Written {
    bytes: u64,
    sha256: String,
}

/// Writes it.
pub(super) async fn run(global: &Global, name: &str, file: &Path) -> Result<(), Failure> {
    if file != Path::new(STDOUT) {
        return to_file(global, name, file).await;
    }
    if global.output == Output::Json {
        let next = format!("ollamax model export {name} FILE -o json");
        return Err(Failure::usage("the bundle and the words about it would both go to standard output", next));
    }
    let (head, mut parts, id) = ask(global, name).await?;
    let written = write(&mut parts, &head, tokio::io::stdout(), &ProgressBar::hidden()).await;
    let written = written.map_err(|failure| failure.with_request_id(&id))?;
    output::talk(global.output, &told(&head, &written, "standard output"));
    Ok(())
}

async fn to_file(global: &Global, name: &str, file: &Path) -> Result<(), Failure> {
    refuse_present(file)?;
    let (head, mut parts, id) = ask(global, name).await?;
    let (draft, opened) = Draft::begin(file)?;
    let bar = if output::may_draw(global.output) { super::bar(head.length_bytes) } else { ProgressBar::hidden() };
    bar.set_message("writing");
    let written = write(&mut parts, &head, tokio::fs::File::from_std(opened), &bar).await;
    bar.finish_and_clear();
    let written = written.map_err(|failure| failure.with_request_id(&id))?;
    draft.keep().map_err(|error| unwritten(file, &error))?;
    let place = file.display().to_string();
    if global.output == Output::Json {
        let fields = json!({
            "name": head.name,
            "digest": hex::encode(&head.digest),
            "bytes": written.bytes,
            "sha256": written.sha256,
            "file": place,
        });
        return output::json("Bundle", fields);
    }
    output::text(&format!("{}\n", told(&head, &written, &place)))
}

fn told(head: &ExportHead, written: &Written, place: &str) -> String {
    let (name, digest, size) = (&head.name, text::digest(&head.digest), text::bytes(written.bytes));
    format!("exported {name} ({digest}), {size}, to {place}\nsha256 {}", written.sha256)
}

fn refuse_present(file: &Path) -> Result<(), Failure> {
    if fs::symlink_metadata(file).is_err() {
        return Ok(());
    }
    let (what, why) = (format!("{} exists", file.display()), "a bundle is not written over another file");
    Err(Failure::new(4, what, why, "another name, or remove it"))
}

/// What the bundle is, its bytes, and the id of the call.
async fn ask(global: &Global, name: &str) -> Result<(ExportHead, Streaming<ExportPart>, String), Failure> {
    let asked = ExportRequest { name: name.to_owned() };
    let answer = client::connect_models(global).await?.export(asked).await?;
    let (id, mut parts) = (request_id(answer.metadata()), answer.into_inner());
    let first = parts.message().await.map_err(|status| Failure::from(status).with_request_id(&id))?;
    match first.and_then(|first| first.part) {
        Some(Part::Head(head)) => Ok((head, parts, id)),
        _ => Err(cut().with_request_id(&id)),
    }
}

/// Writes all of it, and its SHA-256 on the way.
async fn write(
    parts: &mut Streaming<ExportPart>,
    head: &ExportHead,
    mut to: impl AsyncWrite + Unpin,
    bar: &ProgressBar,
) -> Result<Written, Failure> {
    let refused = |error: io::Error| Failure::new(1, "write the bundle", error.to_string(), "look at what takes it");
    let (mut bytes, mut sha256) = (0_u64, Sha256::new());
    while let Some(part) = parts.message().await? {
        let Some(Part::Data(data)) = part.part else { return Err(cut()) };
        sha256.update(&data);
        to.write_all(&data).await.map_err(refused)?;
        bytes += data.len() as u64;
        bar.set_position(bytes);
    }
    to.flush().await.map_err(refused)?;
    if bytes != head.length_bytes {
        return Err(cut());
    }
    Ok(Written { bytes, sha256: hex::encode(sha256.finalize()) })
}

fn cut() -> Failure {
    Failure::new(7, "the daemon ended before the bundle did", "it is stopping", "repeat the command")
}

fn unwritten(file: &Path, error: &io::Error) -> Failure {
    Failure::new(1, format!("write {}", file.display()), error.to_string(), "another place, or more room there")
}

// === impl Draft ===

impl<'a> Draft<'a> {
    /// Begins it. One that is there already is that of another export, or somebody else's.
    fn begin(name: &'a Path) -> Result<(Self, fs::File), Failure> {
        let mut path = OsString::from(name);
        path.push(".part");
        let path = PathBuf::from(path);
        match fs::File::create_new(&path) {
            Ok(opened) => Ok((Self { path, name }, opened)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let what = format!("{} exists", path.display());
                let why = "another export writes it, or was killed";
                Err(Failure::new(4, what, why, "another name; where no export runs, remove it"))
            }
            Err(error) => Err(unwritten(&path, &error)),
        }
    }

    /// Makes it durable and gives it its name, unless somebody else has it by now.
    fn keep(self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()?;
        if fs::symlink_metadata(self.name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // Not by a second name: what is carried to another site has a file system that knows none.
        fs::rename(&self.path, self.name)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // It has its name by now, or it is no bundle.
        drop(fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Two exports to one name once wrote into one file, and the second that failed removed that of the first.
    #[test]
    fn a_draft_that_is_there_is_left_alone() {
        let folder = tempfile::tempdir().expect("temp");
        let (file, part) = (folder.path().join("m.ollamax"), folder.path().join("m.ollamax.part"));
        fs::write(&part, "of another export").expect("room");
        let refused = Draft::begin(&file).err().expect("it is there");
        let (why, next) = ("another export writes it, or was killed", "another name; where no export runs, remove it");
        assert_eq!(refused, Failure::new(4, format!("{} exists", part.display()), why, next));
        assert_eq!(fs::read_to_string(&part).expect("it is there"), "of another export");
        let refused = Draft::begin(&folder.path().join("nowhere/m")).err().expect("there is no such folder");
        assert_eq!(refused.exit(), 1);
    }

    #[test]
    fn a_draft_gets_its_name_or_goes_and_nothing_is_written_over() {
        let folder = tempfile::tempdir().expect("temp");
        let (file, part) = (folder.path().join("m.ollamax"), folder.path().join("m.ollamax.part"));
        assert_eq!(refuse_present(&file), Ok(()));
        let begun = || {
            let (draft, mut opened) = Draft::begin(&file).expect("nobody writes it");
            assert_eq!(draft.path, part);
            opened.write_all(b"all of it").expect("room");
            draft
        };
        drop(begun());
        assert!(!part.exists() && !file.exists(), "it broke off");
        begun().keep().expect("the name is free");
        assert_eq!(fs::read_to_string(&file).expect("it is there"), "all of it");
        assert!(!part.exists());
        fs::write(&file, "another").expect("ours");
        assert_eq!(refuse_present(&file).expect_err("it is there").exit(), 4);
        assert_eq!(begun().keep().expect_err("it is there").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&file).expect("it is there"), "another");
        assert!(!part.exists());
    }
}
