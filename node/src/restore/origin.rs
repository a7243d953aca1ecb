//! Where a backup is read from: a file of this machine, or an object of a bucket, which is fetched first.
//!
//! What is fetched goes into a file without a name, in the file system where it is needed: whatever ends this process,
//! nothing is left of it. A bucket is reached as a node reaches it, by the keys of a configuration file and of the
//! environment; no node is needed for that. People see how far it is; a disk that is too small is told before it is
//! full.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use ollamax_outbound::bucket::{Bucket, BucketError, Fetched};
use ollamax_store as store;
use ollamax_types::ErrorCode;

use super::{DISK_NEXT, failed};
use crate::backups::place::Address;
use crate::config::NodeConfig;
use crate::offline::{EXIT_USAGE, Failure, Form, code_of, denied};
use crate::{clock, variables};

/// How often people are told how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// What a line begins with that only tells how far it is; `ollamax` knows it by that.
const PROGRESS: &str = "progress: ";
/// How a bucket is reached.
const ACCESS_NEXT: &str = "name a node's configuration with --config FILE, or set OLLAMAX_BACKUP_S3_ENDPOINT, \
                           OLLAMAX_BACKUP_S3_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

/// Which backup is meant.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// A file, or `s3://BUCKET/KEY`.
    pub(crate) name: PathBuf,
    /// The configuration file that tells how a bucket is reached.
    pub(crate) config: Option<PathBuf>,
}

/// Where an object is put that is fetched.
#[derive(Debug)]
pub(super) struct Scratch {
    /// In which file system; made where it is not there.
    pub(super) dir: PathBuf,
    /// The folder that is there in it for a moment.
    pub(super) folder: String,
}

// === impl Origin ===

impl Origin {
    /// Opens the backup.
    ///
    /// # Errors
    /// When there is none of this name, it may not be read, or it cannot be brought here.
    pub(super) fn open(&self, scratch: &Scratch, form: Form) -> Result<File, Failure> {
        let parsed = Address::parse(&self.name.to_string_lossy());
        let next = "name a file, or an object of a bucket: ollamax backup list";
        let address = parsed.map_err(|error| Failure::new(EXIT_USAGE, error.to_string(), next))?;
        match address {
            None => open_file(&self.name),
            Some(address) => self.fetch(&address, scratch, form),
        }
    }

    fn fetch(&self, address: &Address, scratch: &Scratch, form: Form) -> Result<File, Failure> {
        let config = NodeConfig::load_bucket(self.config.as_deref(), variables()).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::new(EXIT_USAGE, problems.join("\n"), ACCESS_NEXT)
        })?;
        let refused = |error: BucketError| refused(&error, &self.name);
        let secret = config.secret(|variable| std::env::var(variable).ok()).map_err(refused)?;
        let bucket = Bucket::open(&config, &address.bucket, &secret, clock()).map_err(refused)?;
        let file = scratch.make_file()?;
        let mut into = tokio::fs::File::from_std(file.try_clone().map_err(|error| failed("open a file", &error))?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed("start the work", &error))?;
        runtime.block_on(async {
            let mut watch = Watch { form, told_at: Instant::now(), has_room: false };
            bucket.fetch(&address.key, &mut into, |fetched| watch.look(fetched, scratch)).await.map_err(refused)
        })?;
        Ok(file)
    }
}

// === impl Scratch ===

impl Scratch {
    /// A file that has lost its name already.
    fn make_file(&self) -> Result<File, Failure> {
        let folder = self.dir.join(&self.folder);
        let made = DirBuilder::new().recursive(true).mode(0o750).create(&folder).and_then(|()| {
            let path = folder.join(format!("fetched-{}", std::process::id()));
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        });
        // An empty folder that stays is in nobody's way.
        drop(fs::remove_dir(&folder));
        made.map_err(|error| {
            denied(&self.dir, &error).unwrap_or_else(|| {
                let what = format!("make a file in {}: {error}", self.dir.display());
                Failure::told(code_of(&error), what, DISK_NEXT)
            })
        })
    }

    /// Whether what is missing of an object fits beside what must stay free.
    fn check_room(&self, fetched: Fetched) -> Result<(), BucketError> {
        let Some(space) = store::Space::of(&self.dir) else { return Ok(()) };
        let missing = fetched.bytes.saturating_sub(fetched.done);
        let wanted = missing.saturating_add(store::Config::default().reserve_bytes);
        space.check(wanted).map_err(|_| BucketError::Unwritten {
            kind: io::ErrorKind::StorageFull,
            reason: format!(
                "{} has {} MiB free, and {} MiB are needed",
                self.dir.display(),
                space.free_bytes >> 20,
                wanted.div_ceil(1 << 20)
            ),
        })
    }
}

/// What happens while an object is fetched.
struct Watch {
    form: Form,
    told_at: Instant,
    has_room: bool,
}

// === impl Watch ===

impl Watch {
    fn look(&mut self, fetched: Fetched, scratch: &Scratch) -> Result<(), BucketError> {
        if !self.has_room {
            scratch.check_room(fetched)?;
            self.has_room = true;
        }
        if self.form == Form::Text && self.told_at.elapsed() >= PROGRESS_INTERVAL {
            self.told_at = Instant::now();
            drop(io::stderr().write_all(progress(fetched).as_bytes()));
        }
        Ok(())
    }
}

fn progress(fetched: Fetched) -> String {
    format!("{PROGRESS}{} of {} MiB fetched\n", fetched.done >> 20, fetched.bytes.div_ceil(1 << 20))
}

fn open_file(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        denied(path, &error).unwrap_or_else(|| {
            let what = format!("read {}: {error}", path.display());
            Failure::new(EXIT_USAGE, what, "name the file of a backup: ollamax backup list")
        })
    })
}

/// Why an object was not fetched, and what to do about it.
fn refused(error: &BucketError, name: &Path) -> Failure {
    let (code, text) = (error.code(), format!("{}: {error}", name.display()));
    match error {
        BucketError::Config { .. } | BucketError::Secret { .. } => {
            Failure::new(EXIT_USAGE, text, ACCESS_NEXT).with_code(code)
        }
        BucketError::Refused { status: 404, .. } => {
            let next = "look at the names: ollamax backup list --from s3://BUCKET/PREFIX, or any client of the bucket";
            Failure::new(EXIT_USAGE, text, next).with_code(code)
        }
        BucketError::Refused { status: 401 | 403, .. } => {
            let next = "look at the access key, its secret and its rights, and at the clock of this machine";
            Failure::told(code, text, next)
        }
        BucketError::Unwritten { .. } if code == ErrorCode::DiskFull => {
            Failure::told(code, text, "make room there, or name a place that has it: --data-dir, or TMPDIR of `verify`")
        }
        BucketError::Unwritten { .. } | BucketError::File { .. } => Failure::told(code, text, DISK_NEXT),
        BucketError::Unreachable { .. }
        | BucketError::Cut { .. }
        | BucketError::Refused { .. }
        | BucketError::Garbled { .. }
        | BucketError::TooLarge { .. }
        | BucketError::BrokenOff => {
            let next = "look at backup.s3.endpoint and at the store; then repeat the command, or fetch the object with \
                        another client and name the file";
            Failure::told(code, text, next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::{EXIT_FAILED, exit_of};

    fn scratch(dir: &Path) -> Scratch {
        Scratch { dir: dir.to_owned(), folder: "backups-waiting".to_owned() }
    }

    #[test]
    fn what_is_fetched_has_no_name() {
        let temp = tempfile::tempdir().expect("temp");
        let dir = temp.path().join("new");
        let mut file = scratch(&dir).make_file().expect("made");
        file.write_all(b"whole").expect("written");
        assert_eq!(file.metadata().expect("there").len(), 5);
        assert_eq!(fs::read_dir(&dir).expect("made").count(), 0, "nothing is left of it");
        let taken = temp.path().join("taken");
        fs::write(&taken, "").expect("written");
        let error = scratch(&taken).make_file().expect_err("it is no directory");
        assert!(error.exit == EXIT_FAILED && error.text.contains("taken"), "{error:?}");
    }

    #[test]
    fn a_disk_that_is_too_small_is_told_before_it_is_full() {
        let temp = tempfile::tempdir().expect("temp");
        let here = scratch(temp.path());
        assert_eq!(here.check_room(Fetched { done: 1, bytes: 1 }), Ok(()));
        let error = here.check_room(Fetched { done: 1, bytes: u64::MAX }).expect_err("nobody has that");
        let told = refused(&error, Path::new("s3://lab/a"));
        assert_eq!((told.exit, told.code), (EXIT_FAILED, Some(ErrorCode::DiskFull)), "{told:?}");
        assert!(told.text.contains("MiB free") && told.text.contains("TMPDIR"), "{told:?}");
    }

    #[test]
    fn what_names_no_backup_is_wrong_usage() {
        let temp = tempfile::tempdir().expect("temp");
        let check = |name: &str, config: Option<PathBuf>, expected: &str| {
            let origin = Origin { name: name.into(), config };
            let error = origin.open(&scratch(temp.path()), Form::Text).expect_err(name);
            assert!(error.exit == EXIT_USAGE && error.text.contains(expected), "{name}: {error:?}");
        };
        check("none.oxb.age", None, "name the file of a backup");
        check("https://lab/a", None, "is neither a file nor s3://BUCKET/KEY");
        check("s3://lab/", None, "is neither a file nor s3://BUCKET/KEY");
        check("s3://lab/a", Some(temp.path().join("none.toml")), "none.toml");
        let config = temp.path().join("node.toml");
        fs::write(&config, "[backup.s3]\nendpoint = \"http://127.0.0.1:1\"\n").expect("written");
        check("s3://lab/a", Some(config), "backup.s3.access_key_id");
        assert_eq!(fs::read_dir(temp.path()).expect("there").count(), 1, "nothing is made for that");
    }

    #[test]
    fn each_failure_of_a_bucket_is_told_with_what_helps() {
        let check = |error: BucketError, exit: u8, next: &str| {
            let told = refused(&error, Path::new("s3://lab/a"));
            assert_eq!((told.exit, told.code), (exit, Some(error.code())), "{told:?}");
            assert!(told.text.starts_with("s3://lab/a: ") && told.text.contains(next), "{told:?}");
        };
        let status = |status| BucketError::Refused { what: "x", status, reason: "y".to_owned() };
        let broken = exit_of(ErrorCode::BackupTargetFailed);
        check(status(404), EXIT_USAGE, "ollamax backup list --from");
        check(status(403), broken, "the access key, its secret");
        check(status(503), broken, "repeat the command");
        let (endpoint, reason) = ("http://nas.lan".to_owned(), "gone".to_owned());
        check(BucketError::Cut { what: "x", endpoint, done: 1, bytes: 2, reason }, broken, "after 1 of 2 bytes");
        check(BucketError::Secret { reason: "none".to_owned() }, EXIT_USAGE, "AWS_SECRET_ACCESS_KEY");
    }

    #[test]
    fn progress_is_told_in_one_line_that_programs_know() {
        let fetched = Fetched { done: 3 << 19, bytes: (7 << 20) + 1 };
        assert_eq!(progress(fetched), "progress: 1 of 8 MiB fetched\n");
    }
}
