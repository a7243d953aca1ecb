//! Where backups lie, as it is written: a folder of this machine, or a prefix in a bucket; and one object of a bucket.

use std::path::{Path, PathBuf};

/// What an address in a bucket begins with.
const BUCKET_SCHEME: &str = "s3://";

/// Where backups lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// `backups` in the data directory.
    Default,
    /// A folder.
    Folder(PathBuf),
    /// A bucket, and what the names in it begin with: empty, or text that ends with a slash.
    Bucket {
        /// Its name.
        bucket: String,
        /// Before the names.
        prefix: String,
    },
}

/// Why a text names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    /// A folder that depends on where the daemon was started.
    #[error("{0:?} is not absolute; write the whole path")]
    Relative(String),
    /// Not s3://BUCKET or s3://BUCKET/PREFIX.
    #[error("{0:?} is not s3://BUCKET or s3://BUCKET/PREFIX, with a bucket of 3 to 63 letters, digits, '-' and '.'")]
    NoBucket(String),
    /// Not s3://BUCKET/KEY.
    #[error("{0:?} is neither a file nor s3://BUCKET/KEY, with a bucket of 3 to 63 letters, digits, '-' and '.'")]
    NoObject(String),
}

// === impl Place ===

impl Place {
    /// Reads what a configuration or a command line says.
    ///
    /// # Errors
    /// When it is neither empty, nor a whole path, nor an address in a bucket.
    pub(crate) fn parse(text: &str) -> Result<Self, PlaceError> {
        if text.is_empty() {
            return Ok(Self::Default);
        }
        if let Some(address) = text.strip_prefix(BUCKET_SCHEME) {
            let (bucket, prefix) = address.split_once('/').unwrap_or((address, ""));
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
            let is_path = prefix.split('/').all(|part| part != "." && part != "..");
            if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(plain) || !is_path {
                return Err(PlaceError::NoBucket(text.to_owned()));
            }
            let prefix = prefix.trim_matches('/');
            let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
            return Ok(Self::Bucket { bucket: bucket.to_owned(), prefix });
        }
        if Path::new(text).is_absolute() {
            return Ok(Self::Folder(PathBuf::from(text)));
        }
        Err(PlaceError::Relative(text.to_owned()))
    }
}

/// One object of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// The bucket's name.
    pub(crate) bucket: String,
    /// The object's.
    pub(crate) key: String,
}

// === impl Address ===

impl Address {
    /// Reads what names a backup; nothing where that is a file.
    ///
    /// # Errors
    /// When it looks like an address and is none of an object.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, PlaceError> {
        if !text.contains("://") {
            return Ok(None);
        }
        match Place::parse(text) {
            Ok(Place::Bucket { bucket, prefix }) if !prefix.is_empty() && !text.ends_with('/') => {
                Ok(Some(Self { bucket, key: prefix.trim_end_matches('/').to_owned() }))
            }
            _ => Err(PlaceError::NoObject(text.to_owned())),
        }
    }
}

/// An address in a bucket, as people write it.
#[must_use]
pub(super) fn shown(bucket: &str, prefix: &str) -> String {
    format!("{BUCKET_SCHEME}{bucket}/{}", prefix.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_it_is_read() {
        for text in ["s3://lab.x/a/b", "s3://lab.x/"] {
            let Ok(Place::Bucket { bucket, prefix }) = Place::parse(text) else { panic!("{text}") };
            assert_eq!(shown(&bucket, &prefix), text);
        }
    }

    #[test]
    fn a_file_or_an_object_in_a_bucket() {
        for text in ["a.oxb.age", "/mnt/nas/a.oxb.age", "./a", ""] {
            assert_eq!(Address::parse(text), Ok(None), "{text}");
        }
        let address = Address { bucket: "lab.x".to_owned(), key: "a/b.oxb.age".to_owned() };
        assert_eq!(Address::parse("s3://lab.x/a/b.oxb.age"), Ok(Some(address)));
        for text in ["s3://lab", "s3://lab/", "s3://lab/a/", "s3://ab/a", "s3://lab/../a", "https://lab/a", "://"] {
            assert_eq!(Address::parse(text), Err(PlaceError::NoObject(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_folder_or_a_prefix_in_a_bucket() {
        let bucket =
            |bucket: &str, prefix: &str| Place::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() };
        let rows = [
            ("", Place::Default),
            ("/mnt/nas", Place::Folder(PathBuf::from("/mnt/nas"))),
            ("s3://lab-backups", bucket("lab-backups", "")),
            ("s3://lab-backups/", bucket("lab-backups", "")),
            ("s3://lab.x/a/b", bucket("lab.x", "a/b/")),
            ("s3://lab.x/a/b/", bucket("lab.x", "a/b/")),
        ];
        for (text, expected) in rows {
            assert_eq!(Place::parse(text), Ok(expected), "{text}");
        }
        for text in ["backups", "./x", "s3://", "s3://ab", "s3://a_b_c/x", "s3:///x", "s3://lab/../x", "file:///x"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
