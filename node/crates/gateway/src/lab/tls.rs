//! The certificate, read again when its file changes.
//!
//! Always holds: what is spoken with is a certificate and the key that belongs to it, both read whole. A key that
//! everybody may read is refused at the start. Later a file that cannot be read, or does not fit to the other, is told
//! once, and the certificate that was there goes on; both files are looked at again.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::config::Config;

/// How often both files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The right of everybody to read a file.
const OTHERS_READ: u32 = 0o004;
/// A client's sixteen ranges have a connection each, and not one window.
const PROTOCOL: &[u8] = b"http/1.1";

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read registry.{key} {}: {reason}", path.display())]
    Read {
        /// Which of the two.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The key is no secret.
    #[error("registry.key_file: {} may be read by everybody", .0.display())]
    Open(PathBuf),
    /// Certificate and key are not of one pair.
    #[error("registry.certificate_file and registry.key_file do not belong together: {0}")]
    Pair(rustls::Error),
}

/// A certificate as it stands in its file, and the connections made with it.
pub(super) struct Certificate {
    files: Files,
    seen: Seen,
    current: watch::Sender<TlsAcceptor>,
}

/// Where certificate and key lie.
#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// By what a change of either file shows.
type Seen = [Option<Look>; 2];

#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    inode: u64,
    size_bytes: u64,
    modified_at: (i64, i64),
}

// === impl TlsError ===

impl TlsError {
    /// What helps.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Read { key: "key_file", .. } => {
                "a PEM file with the key of the certificate, readable for the daemon's user".to_owned()
            }
            Self::Read { .. } => {
                "a PEM file with the certificate and its chain, readable for the daemon's user".to_owned()
            }
            Self::Open(path) => format!("chmod o-rwx {}", path.display()),
            Self::Pair(_) => "the key that the certificate was made for".to_owned(),
        }
    }
}

// === impl Certificate ===

impl Certificate {
    /// Reads both files. Blocks on the disk.
    ///
    /// # Errors
    /// When one cannot be read, or they do not belong together.
    pub(super) fn read(config: &Config) -> Result<Self, TlsError> {
        let [certificate, key] = [&config.certificate_file, &config.key_file].map(PathBuf::from);
        let files = Files { certificate, key };
        let seen = files.look();
        let current = watch::Sender::new(files.acceptor()?);
        Ok(Self { files, seen, current })
    }

    /// What new connections are opened with.
    pub(super) fn acceptors(&self) -> watch::Receiver<TlsAcceptor> {
        self.current.subscribe()
    }

    /// Reads both files again when one changed, until `stop`.
    pub(super) async fn keep_fresh(mut self, stop: CancellationToken) {
        let mut is_told = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(LOOK_INTERVAL) => {}
            }
            let (files, seen) = (self.files.clone(), self.seen);
            let looked = spawn_blocking(move || {
                let now = files.look();
                (now != seen).then(|| (now, files.acceptor()))
            });
            match looked.await {
                Ok(Some((now, Ok(acceptor)))) => {
                    (self.seen, is_told) = (now, false);
                    self.current.send_replace(acceptor);
                    tracing::info!("a new certificate is used");
                }
                Ok(Some((_, Err(error)))) if !is_told => {
                    is_told = true;
                    tracing::warn!(%error, "read a new certificate; the old one stays");
                }
                // As it was: what is wrong later is told again.
                Ok(None) => is_told = false,
                // Looked at next time.
                Ok(Some((_, Err(_)))) | Err(_) => {}
            }
        }
    }
}

// === impl Files ===

impl Files {
    fn look(&self) -> Seen {
        [&self.certificate, &self.key].map(|path| Look::at(path).ok())
    }

    fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&self.certificate).and_then(Iterator::collect);
        let chain = chain.map_err(unread("certificate_file", &self.certificate))?;
        if chain.is_empty() {
            return Err(unread("certificate_file", &self.certificate)(pem::Error::NoItemsFound));
        }
        let mode = self.key.metadata().map_err(|error| unread("key_file", &self.key)(pem::Error::Io(error)))?.mode();
        if mode & OTHERS_READ != 0 {
            return Err(TlsError::Open(self.key.clone()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(unread("key_file", &self.key))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = versions.map_err(TlsError::Pair)?.with_no_client_auth();
        let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn unread(key: &'static str, path: &Path) -> impl Fn(pem::Error) -> TlsError {
    move |error| {
        let reason = match error {
            pem::Error::Io(error) => error.to_string(),
            pem::Error::NoItemsFound => "it holds none".to_owned(),
            other => other.to_string(),
        };
        TlsError::Read { key, path: path.to_owned(), reason }
    }
}

// === impl Look ===

impl Look {
    fn at(path: &Path) -> io::Result<Self> {
        let found = path.metadata()?;
        let modified_at = (found.mtime(), found.mtime_nsec());
        Ok(Self { inode: found.ino(), size_bytes: found.len(), modified_at })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore};
    use tempfile::TempDir;
    use tokio::io::duplex;
    use tokio_rustls::TlsConnector;
    use tokio_util::task::TaskTracker;

    use super::*;

    const ROOT: &[u8] = include_bytes!("../../tests/it/lab/ca.pem");
    const CERTIFICATE: &[u8] = include_bytes!("../../tests/it/lab/cert.pem");
    const KEY: &[u8] = include_bytes!("../../tests/it/lab/key.pem");
    const RENEWED: &[u8] = include_bytes!("../../tests/it/lab/renewed_cert.pem");
    const RENEWED_KEY: &[u8] = include_bytes!("../../tests/it/lab/renewed_key.pem");

    /// Two files, and the configuration that names them.
    struct Disk {
        folder: TempDir,
        config: Config,
    }

    impl Disk {
        fn new(certificate: &[u8], key: &[u8]) -> Self {
            let folder = tempfile::tempdir().expect("temp");
            let place = |name: &str| folder.path().join(name).display().to_string();
            let (certificate_file, key_file) = (place("cert.pem"), place("key.pem"));
            let disk = Self { config: Config { certificate_file, key_file, ..Config::default() }, folder };
            disk.put("cert.pem", certificate);
            disk.put("key.pem", key);
            disk.set_mode(0o640);
            disk
        }

        fn put(&self, name: &str, bytes: &[u8]) {
            fs::write(self.folder.path().join(name), bytes).expect("written");
        }

        fn set_mode(&self, mode: u32) {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(&self.config.key_file, mode).expect("ours");
        }

        fn refused(&self) -> String {
            let error = Certificate::read(&self.config).err().expect("it is refused");
            assert!(!error.remedy().is_empty());
            error.to_string().replace(&self.folder.path().display().to_string(), "/x")
        }
    }

    fn der(pem: &[u8]) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem).expect("a certificate")
    }

    /// The certificate that a client is shown who knows the root.
    async fn presented(acceptor: TlsAcceptor) -> CertificateDer<'static> {
        let mut roots = RootCertStore::empty();
        roots.add(der(ROOT)).expect("a root");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let (client, server) = duplex(16 << 10);
        let name = ServerName::try_from("localhost").expect("a name");
        let (connected, accepted) = tokio::join!(connector.connect(name, client), acceptor.accept(server));
        accepted.expect("the client goes on");
        let connected = connected.expect("it is trusted");
        let shown = connected.get_ref().1.peer_certificates().expect("there is one");
        shown[0].clone().into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_was_renewed_is_used_and_half_of_one_is_not() {
        let disk = Disk::new(CERTIFICATE, KEY);
        let certificate = Certificate::read(&disk.config).expect("a pair");
        let mut acceptors = certificate.acceptors();
        let first = acceptors.borrow_and_update().clone();
        assert_eq!(presented(first).await, der(CERTIFICATE));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(certificate.keep_fresh(stop.clone()));
        sleep(3 * LOOK_INTERVAL).await;
        assert!(!acceptors.has_changed().expect("it goes on"), "nothing is new");
        disk.put("cert.pem", RENEWED);
        sleep(3 * LOOK_INTERVAL).await;
        assert!(!acceptors.has_changed().expect("it goes on"), "the key is that of another");
        disk.put("key.pem", RENEWED_KEY);
        acceptors.changed().await.expect("it goes on");
        let second = acceptors.borrow_and_update().clone();
        assert_eq!(presented(second).await, der(RENEWED));
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[test]
    fn what_cannot_be_spoken_with_is_refused_with_what_is_wrong() {
        let check = |disk: &Disk, expected: &str| {
            let refused = disk.refused();
            assert!(refused.starts_with(expected), "{refused}");
        };
        let disk = Disk::new(CERTIFICATE, KEY);
        disk.set_mode(0o644);
        check(&disk, "registry.key_file: /x/key.pem may be read by everybody");
        check(&Disk::new(CERTIFICATE, CERTIFICATE), "read registry.key_file /x/key.pem: it holds none");
        check(&Disk::new(KEY, KEY), "read registry.certificate_file /x/cert.pem: it holds none");
        check(&Disk::new(b"", KEY), "read registry.certificate_file /x/cert.pem: it holds none");
        let pair = "registry.certificate_file and registry.key_file do not belong together: ";
        check(&Disk::new(RENEWED, KEY), pair);
        let disk = Disk::new(CERTIFICATE, KEY);
        fs::remove_file(&disk.config.key_file).expect("it is there");
        check(&disk, "read registry.key_file /x/key.pem: No such file or directory");
        fs::remove_file(&disk.config.certificate_file).expect("it is there");
        check(&disk, "read registry.certificate_file /x/cert.pem: No such file or directory");
    }
}
