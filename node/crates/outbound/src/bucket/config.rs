//! `backup.s3.*`: how a bucket is reached. The secret half of the key stands in a file of its own, never here.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ollamax_types::Secret;

use super::error::BucketError;

/// The variable that holds the secret where no file is named, as every S3 client reads it.
const SECRET_VARIABLE: &str = "AWS_SECRET_ACCESS_KEY";
/// Rights of others than the owner of a file.
const FOREIGN_RIGHTS: u32 = 0o077;
/// Longest secret that is read.
const SECRET_BYTES_MAX: u64 = 4 << 10;

/// The `backup.s3` table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Base URL of the store, for example `https://s3.eu-central-1.amazonaws.com` or `http://nas.lan:9000`. Since 0.1.
    pub endpoint: String,
    /// Region that requests are signed for; stores of one's own take any. Since 0.1.
    pub region: String,
    /// Public half of the access key. Since 0.1.
    pub access_key_id: String,
    /// File with the secret half, mode 0600; empty: `AWS_SECRET_ACCESS_KEY` in the daemon's environment. Since 0.1.
    pub secret_file: String,
    /// Whether the bucket stands in the path, as stores of one's own want it, and not in the host name. Since 0.1.
    pub path_style: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            region: "us-east-1".to_owned(),
            access_key_id: String::new(),
            secret_file: String::new(),
            path_style: true,
        }
    }
}

// === impl Config ===

impl Config {
    /// Every problem, each as `key: what is wrong`. Whether anything is needed at all, only the caller knows.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match self.endpoint.parse::<url::Url>() {
            Ok(url) if ["http", "https"].contains(&url.scheme()) && url.has_host() => {}
            _ => problems.push(format!("backup.s3.endpoint: {:?} is not http(s)://HOST[:PORT]", self.endpoint)),
        }
        if self.region.is_empty() {
            problems.push("backup.s3.region: it is empty; stores of one's own take us-east-1".to_owned());
        }
        if self.access_key_id.is_empty() {
            problems.push("backup.s3.access_key_id: it is empty".to_owned());
        }
        problems
    }

    /// The secret half of the key: from its file, else from the environment. Read anew for each use, so that it can be
    /// changed while the node runs.
    ///
    /// # Errors
    /// When there is none, or others may read the file.
    pub fn secret(&self, variable: impl FnOnce(&str) -> Option<String>) -> Result<Secret, BucketError> {
        let missing = |reason: String| BucketError::Secret { reason };
        if self.secret_file.is_empty() {
            let found = variable(SECRET_VARIABLE).filter(|text| !text.trim().is_empty());
            let found = found.ok_or_else(|| {
                missing(format!("neither backup.s3.secret_file nor {SECRET_VARIABLE} in the environment names one"))
            })?;
            return Ok(Secret::new(found.trim()));
        }
        let path = Path::new(&self.secret_file);
        let broken = |error: std::io::Error| missing(format!("backup.s3.secret_file {}: {error}", path.display()));
        let file = File::open(path).map_err(broken)?;
        let about = file.metadata().map_err(broken)?;
        let mode = about.mode() & 0o7777;
        if about.is_file() && mode & FOREIGN_RIGHTS != 0 {
            let shown = path.display();
            return Err(missing(format!("{shown} holds a secret but has mode {mode:04o}; run: chmod 600 {shown}")));
        }
        let mut text = String::new();
        file.take(SECRET_BYTES_MAX).read_to_string(&mut text).map_err(broken)?;
        match text.trim() {
            "" => Err(missing(format!("{} is empty", path.display()))),
            secret => Ok(Secret::new(secret)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn every_problem_is_named_at_once() {
        let good =
            Config { endpoint: "http://nas.lan:9000".to_owned(), access_key_id: "lab".to_owned(), ..Config::default() };
        assert_eq!(good.validate(), Vec::<String>::new());
        let bad = Config { endpoint: "nas.lan".to_owned(), region: String::new(), ..Config::default() };
        let problems = bad.validate();
        for key in ["backup.s3.endpoint", "backup.s3.region", "backup.s3.access_key_id"] {
            assert!(problems.iter().any(|problem| problem.starts_with(key)), "{key} in {problems:?}");
        }
    }

    #[test]
    fn the_secret_comes_from_a_file_for_its_owner_alone_or_from_the_environment() {
        let none = Config::default();
        assert_eq!(none.secret(|_| Some(" s3cret\n".to_owned())).expect("set").expose(), "s3cret");
        let error = none.secret(|_| None).expect_err("nowhere").to_string();
        assert!(error.contains("backup.s3.secret_file") && error.contains(SECRET_VARIABLE), "{error}");
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("secret");
        let config = Config { secret_file: path.display().to_string(), ..Config::default() };
        assert!(config.secret(|_| None).is_err());
        fs::write(&path, "s3cret\n").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        let error = config.secret(|_| None).expect_err("others may read it").to_string();
        assert!(error.contains("chmod 600") && !error.contains("s3cret"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        assert_eq!(config.secret(|_| None).expect("readable").expose(), "s3cret");
        fs::write(&path, "\n").expect("written");
        assert!(config.secret(|_| None).is_err());
    }
}
