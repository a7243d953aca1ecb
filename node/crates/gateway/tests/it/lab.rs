//! The registry for the lab over real sockets, as Ollama's client asks it: plain and over TLS.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
#[cfg(target_os = "linux")]
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use ollamax_gateway::RegistryConfig;
use ollamax_gateway::http::bind;
use ollamax_gateway::lab::{Door, spawn};
use ollamax_gateway::mem::MemNode;
use ollamax_transfer as transfer;
use ollamax_transfer::Place;
use ollamax_transfer::mem::{MemCluster, MemOrigin, MemOthers, MemPeers, MemRuntime};
use ollamax_types::{Clock, Digest, ModelRecord, NodeId};

use crate::world::{World, model};

const ROOT: &[u8] = include_bytes!("lab/ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("lab/cert.pem");
const KEY: &[u8] = include_bytes!("lab/key.pem");

const MANIFEST_PLACE: &str = "/v2/library/demo/manifests/1b";
const WEIGHTS_BYTES: usize = (1 << 20) + 10;
/// More than any socket holds.
const LARGE_BYTES: u64 = 64 << 20;
const WEIGHTS: &str = "7b321e6dd7e316eced16181624655155945bf251553f52d440a2782d138d44fe";
const SETTINGS: &str = r#"{"model_format":"gguf","model_family":"llama"}"#;
const SETTINGS_DIGEST: &str = "62083d25e8b1bfb2ab2b60ae52ec1fad997630c8648447f7a37a6b79ff2137f1";
const MANIFEST: &str = concat!(
    r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.docker.container.image.v1+json","#,
    r#""digest":"sha256:62083d25e8b1bfb2ab2b60ae52ec1fad997630c8648447f7a37a6b79ff2137f1","size":46},"#,
    r#""layers":[{"mediaType":"application/vnd.ollama.image.model","#,
    r#""digest":"sha256:7b321e6dd7e316eced16181624655155945bf251553f52d440a2782d138d44fe","size":1048586}]}"#,
);
const MANIFEST_DIGEST: &str = "d592ea4b296b13cf5de83898ca496ddfd6fd624f6172f8a227b66369de3cd2de";

/// A node whose store has `demo:1b`, and its registry for the lab.
struct Lab {
    address: SocketAddr,
    metrics: Registry,
    tls: Option<TlsConnector>,
    folder: TempDir,
    _stop: DropGuard,
}

/// An answer, whole.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

fn weights() -> Vec<u8> {
    (0..WEIGHTS_BYTES).map(|at| u8::try_from(at % 251).expect("small")).collect()
}

fn blob_place(digest: &str) -> String {
    format!("/v2/library/demo/blobs/sha256:{digest}")
}

fn put_model(store: &Path) {
    let manifests = store.join("manifests/registry.ollama.ai/library/demo");
    fs::create_dir_all(&manifests).expect("a folder");
    fs::create_dir_all(store.join("blobs")).expect("a folder");
    fs::write(store.join(format!("blobs/sha256-{WEIGHTS}")), weights()).expect("written");
    fs::write(store.join(format!("blobs/sha256-{SETTINGS_DIGEST}")), SETTINGS).expect("written");
    fs::write(manifests.join("1b"), MANIFEST).expect("written");
    let manifest = MANIFEST.replace(WEIGHTS, &large()).replace("1048586", &LARGE_BYTES.to_string());
    fs::write(manifests.join("large"), manifest).expect("written");
    let file = fs::File::create(store.join(format!("blobs/sha256-{}", large()))).expect("written");
    file.set_len(LARGE_BYTES).expect("it takes no room");
}

/// The digest that the file has by its name, which holds nothing.
fn large() -> String {
    "ab".repeat(32)
}

fn digest(text: &str) -> Digest {
    text.parse().expect("a digest")
}

/// A member with the model; where that is pinned, another node has a newer version of it.
async fn member(folder: &Path, tasks: &TaskTracker, stop: &CancellationToken, is_pinned: bool) -> MemNode {
    let store = folder.join("models");
    put_model(&store);
    let parts = transfer::Parts {
        node: NodeId(1),
        clock: Clock::system(),
        data_dir: folder.join("data"),
        origin: Arc::new(MemOrigin::default()),
        runtime: Arc::new(MemRuntime::at(Place::Store(store))),
        others: Arc::new(MemOthers::default()),
        peers: Arc::new(MemPeers::default()),
        ledger: Arc::new(MemCluster::new([NodeId(1)]).ledger(NodeId(1))),
        seed: 7,
        minute_of_week: |_| 0,
        strain: watch::Sender::new(false).subscribe(),
        metrics: transfer::Metrics::default(),
    };
    let engine = transfer::Handle::start(transfer::Config::default(), parts, tasks, stop.clone());
    let mut adopted = engine.adopted();
    let is_read = adopted.wait_for(|adopted| adopted.models.len() > 1);
    assert!(timeout(Duration::from_secs(60), is_read).await.expect("it is read").is_ok());
    let mut world = World::start(if is_pinned { 2 } else { 1 });
    let record = ModelRecord { digest: digest(MANIFEST_DIGEST), ..model("demo:1b", 1, 5) };
    world.set(1, "0.12.0", &[record], &[]);
    if is_pinned {
        world.set(2, "0.12.0", &[model("demo:1b", 9, 6)], &[]);
        world.pin("demo:1b", digest(MANIFEST_DIGEST));
    }
    world.door.set_transfer(engine);
    world.door.clone()
}

fn with_tls(folder: &Path, config: RegistryConfig) -> (RegistryConfig, TlsConnector) {
    let place = |name: &str| folder.join(name);
    fs::write(place("cert.pem"), CERTIFICATE).expect("written");
    fs::write(place("key.pem"), KEY).expect("written");
    fs::set_permissions(place("key.pem"), fs::Permissions::from_mode(0o600)).expect("ours");
    let [certificate_file, key_file] = ["cert.pem", "key.pem"].map(|name| place(name).display().to_string());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ROOT).expect("a certificate")).expect("a root");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
    (RegistryConfig { certificate_file, key_file, ..config }, TlsConnector::from(Arc::new(client)))
}

// === impl Lab ===

impl Lab {
    async fn start(config: RegistryConfig, has_tls: bool, is_member: bool) -> Self {
        Self::start_with(config, has_tls, is_member, false).await
    }

    async fn start_with(config: RegistryConfig, has_tls: bool, is_member: bool, is_pinned: bool) -> Self {
        let (folder, tasks, stop) = (tempfile::tempdir().expect("temp"), TaskTracker::new(), CancellationToken::new());
        let node = if is_member { member(folder.path(), &tasks, &stop, is_pinned).await } else { MemNode::new("n1") };
        let (config, tls) = if has_tls {
            let (config, tls) = with_tls(folder.path(), config);
            (config, Some(tls))
        } else {
            (config, None)
        };
        assert_eq!(config.validate(), Vec::<String>::new());
        let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let (address, metrics) = (listener.local_addr().expect("bound"), Registry::new());
        let registry = metrics.clone();
        let door = Door { listener, config, node: Arc::new(node), registry, grace: Duration::ZERO };
        drop(spawn(door, &tasks, stop.clone()).expect("it opens"));
        Self { address, metrics, tls, folder, _stop: stop.drop_guard() }
    }

    async fn plain(is_member: bool) -> Self {
        Self::start(RegistryConfig::default(), false, is_member).await
    }

    const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Asks over a connection of its own, to the host that is named.
    async fn ask(&self, method: &str, url: &str, more: &str) -> Answer {
        let rest = url.strip_prefix(&format!("{}://", self.scheme())).expect("the same scheme");
        let (authority, path) = rest.split_once('/').expect("a path");
        let host = hostname(authority);
        let asked = format!("{method} /{path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n{more}\r\n");
        // A name in brackets is that of the same address.
        let ip = host.parse::<IpAddr>().map_or(self.address.ip(), |ip| ip.to_canonical());
        let port = authority.rsplit_once(':').expect("a port").1.parse().expect("a number");
        let stream = TcpStream::connect(SocketAddr::new(ip, port)).await.expect("it listens");
        let Some(tls) = &self.tls else { return exchange(stream, &asked).await };
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        let stream = tls.connect(name, stream).await.expect("the certificate is trusted");
        exchange(stream, &asked).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", &format!("{}://{}{path}", self.scheme(), self.address), "").await
    }

    fn counted(&self, name: &str) -> f64 {
        let families = self.metrics.gather();
        let family = families.iter().find(|family| family.name() == name).expect("a metric of that name");
        family.get_metric().iter().map(|metric| metric.get_counter().value()).sum()
    }

    /// A model as Ollama's client pulls it, asked for at this host.
    async fn pull(&self, host: &str) {
        let base = format!("{}://{host}:{}", self.scheme(), self.address.port());
        let manifest = self.ask("GET", &format!("{base}{MANIFEST_PLACE}"), "").await;
        assert_eq!((manifest.status, manifest.body.as_slice()), (200, MANIFEST.as_bytes()));
        for (digest, expected) in [(WEIGHTS, weights()), (SETTINGS_DIGEST, SETTINGS.as_bytes().to_vec())] {
            let url = format!("{base}{}", blob_place(digest));
            let head = self.ask("HEAD", &url, "").await;
            let length = expected.len().to_string();
            assert_eq!((head.status, head.header("content-length")), (200, Some(length.as_str())));
            assert!(head.body.is_empty());
            let sent = self.ask("GET", &url, "").await;
            assert_eq!((sent.status, sent.body.len()), (307, 0), "{}", sent.head);
            let direct = sent.header("location").expect("a place").to_owned();
            let (_, authority) = direct.split_once("://").expect("a url");
            let authority = authority.split('/').next().expect("an authority");
            assert_ne!(hostname(authority), host, "Ollama's client takes no file from where it asked for it");
            let third = expected.len().div_ceil(3);
            let ranges = [0, 1, 2].map(|part| (part * third, ((part + 1) * third).min(expected.len()) - 1));
            let ranges = ranges.map(|(first, last)| format!("range: bytes={first}-{last}\r\n"));
            let [one, two, three] = &ranges;
            let (one, two, three) = tokio::join!(
                self.ask("GET", &direct, one),
                self.ask("GET", &direct, two),
                self.ask("GET", &direct, three)
            );
            let parts = [one, two, three];
            assert!(parts.iter().all(|part| part.status == 206), "{:?}", parts.each_ref().map(|part| &part.head));
            let told = format!("bytes 0-{}/{length}", third - 1);
            assert_eq!(parts[0].header("content-range"), Some(told.as_str()));
            assert!(parts.map(|part| part.body).concat() == expected, "other bytes of {digest}");
        }
    }
}

// === impl Answer ===

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn hostname(authority: &str) -> &str {
    let (host, _) = authority.rsplit_once(':').expect("a port");
    host.trim_start_matches('[').trim_end_matches(']')
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, asked: &str) -> Answer {
    stream.write_all(asked.as_bytes()).await.expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("answered");
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    Answer { status, head, body: bytes[end + 4..].to_vec() }
}

#[tokio::test]
async fn a_model_is_pulled_from_a_node_as_ollamas_client_does_it() {
    let lab = Lab::plain(true).await;
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost"] {
        lab.pull(host).await;
    }
    assert!(lab.counted("ollamax_registry_sent_bytes_total") >= 3.0 * 1_048_586.0);
    let ping = lab.get("/v2/").await;
    assert_eq!((ping.status, ping.text().as_str()), (200, "{}"));
    assert_eq!(ping.header("docker-distribution-api-version"), Some("registry/2.0"));
    let manifest = lab.get(MANIFEST_PLACE).await;
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    assert_eq!(manifest.header("content-type"), Some(kind));
    assert_eq!(manifest.header("docker-content-digest"), Some(format!("sha256:{MANIFEST_DIGEST}").as_str()));
    let direct = format!("{}?direct=1", blob_place(WEIGHTS));
    let whole = lab.get(&direct).await;
    assert!(whole.status == 200 && whole.body == weights());
    let url = format!("http://{}{direct}", lab.address);
    let beyond = lab.ask("GET", &url, "range: bytes=1048586-\r\n").await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */1048586")));
}

#[tokio::test]
async fn it_is_pulled_over_tls_too_and_by_nobody_who_speaks_plainly() {
    let lab = Lab::start(RegistryConfig::default(), true, true).await;
    for host in ["127.0.0.1", "localhost"] {
        lab.pull(host).await;
    }
    let mut stream = TcpStream::connect(lab.address).await.expect("it listens");
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    // Whether the end is told or the connection is cut depends on who is faster.
    drop(stream.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn what_is_pinned_is_given_where_another_node_has_a_newer_version() {
    let config = RegistryConfig { fetch: false, ..RegistryConfig::default() };
    let lab = Lab::start_with(config, false, true, true).await;
    let manifest = lab.get(MANIFEST_PLACE).await;
    assert_eq!((manifest.status, manifest.text().as_str()), (200, MANIFEST));
}

#[tokio::test]
async fn another_name_is_told_where_the_configuration_has_one() {
    let config = RegistryConfig { advertise: vec!["lab1.example:443".to_owned()], ..RegistryConfig::default() };
    let lab = Lab::start(config, false, true).await;
    let sent = lab.get(&blob_place(WEIGHTS)).await;
    let place = format!("http://lab1.example:443{}?direct=1", blob_place(WEIGHTS));
    assert_eq!((sent.status, sent.header("location")), (307, Some(place.as_str())));
}

#[tokio::test]
async fn who_is_in_no_network_gets_nothing() {
    let config = RegistryConfig { allow: vec!["10.0.0.0/8".to_owned()], ..RegistryConfig::default() };
    let lab = Lab::start(config, false, true).await;
    for path in ["/", "/v2/", MANIFEST_PLACE, &format!("{}?direct=1", blob_place(WEIGHTS)), "/v2/x"] {
        let denied = lab.get(path).await;
        assert_eq!(denied.status, 403, "{path}");
        let told = r#"{"errors":[{"code":"DENIED","message":"127.0.0.1 is in no network of registry.allow"}]}"#;
        assert_eq!(denied.text(), told);
    }
}

/// Other addresses of this machine can be used without being set up on Linux alone.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_is_in_no_network_takes_no_place_of_those_who_are() {
    let (allow, connections_max) = (vec!["127.0.0.1".to_owned()], 1);
    let lab = Lab::start(RegistryConfig { allow, connections_max, ..RegistryConfig::default() }, false, false).await;
    let mut strangers = Vec::new();
    for _ in 0..3 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.2:0".parse().expect("an address")).expect("an address of this machine");
        strangers.push(socket.connect(lab.address).await.expect("it listens"));
    }
    assert_eq!(lab.get("/v2/").await.status, 200);
    drop(strangers);
}

#[tokio::test]
async fn a_file_that_breaks_off_never_looks_whole() {
    let lab = Lab::plain(true).await;
    let mut stream = TcpStream::connect(lab.address).await.expect("it listens");
    let asked = format!("GET {}?direct=1 HTTP/1.1\r\nhost: localhost\r\n\r\n", blob_place(&large()));
    stream.write_all(asked.as_bytes()).await.expect("sent");
    let mut first = [0; 1 << 10];
    stream.read_exact(&mut first).await.expect("it begins");
    let head = String::from_utf8_lossy(&first).into_owned();
    let length = format!("content-length: {LARGE_BYTES}");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains(&length), "{head}");
    let path = lab.folder.path().join(format!("models/blobs/sha256-{}", large()));
    fs::OpenOptions::new().write(true).open(path).expect("it is there").set_len(1).expect("ours");
    let mut rest = Vec::new();
    // Whether the end is told or the connection is cut depends on who is faster.
    drop(timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await.expect("it breaks off"));
    assert!((rest.len() as u64) < LARGE_BYTES / 2, "{} bytes came", rest.len());
}

#[tokio::test]
async fn nothing_can_be_written() {
    let lab = Lab::plain(true).await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        for path in ["/v2/", MANIFEST_PLACE, &blob_place(WEIGHTS), "/v2/library/demo/blobs/uploads/"] {
            let url = format!("http://{}{path}", lab.address);
            let refused = lab.ask(method, &url, "content-length: 0\r\n").await;
            let told = r#"{"errors":[{"code":"UNSUPPORTED","message":"this registry is read-only"}]}"#;
            assert_eq!((refused.status, refused.text().as_str()), (405, told), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn what_is_not_there_does_not_exist_and_tricks_lead_nowhere() {
    let lab = Lab::start(RegistryConfig { fetch: false, ..RegistryConfig::default() }, false, true).await;
    let check = async |path: &str, status: u16, word: &str| {
        let answer = lab.get(path).await;
        let is_told = answer.text().starts_with(&format!(r#"{{"errors":[{{"code":"{word}""#));
        assert!(answer.status == status && is_told, "{path}: {} {}", answer.status, answer.text());
    };
    check("/v2/library/other/manifests/1b", 404, "MANIFEST_UNKNOWN").await;
    check("/v2/library/demo/manifests/2b", 404, "MANIFEST_UNKNOWN").await;
    check("/v2/ollamax-00112233445566ff/demo/manifests/1b", 404, "MANIFEST_UNKNOWN").await;
    check(&blob_place(&"00".repeat(32)), 404, "BLOB_UNKNOWN").await;
    check(&blob_place(MANIFEST_DIGEST), 404, "BLOB_UNKNOWN").await;
    check(&blob_place("aa"), 404, "NAME_UNKNOWN").await;
    check("/v2/_catalog", 404, "NAME_UNKNOWN").await;
    check("/v2/library/demo/tags/list", 404, "NAME_UNKNOWN").await;
    check("/v2/../../etc/passwd", 404, "NAME_UNKNOWN").await;
    check("/v2/../../manifests/1b", 400, "NAME_INVALID").await;
    check("/v2/%2e%2e/demo/manifests/1b", 400, "NAME_INVALID").await;
    check("/v2/library/demo/manifests/%2fetc", 400, "NAME_INVALID").await;
    check(&format!("/v2/library/{}/manifests/1b", "a".repeat(300)), 400, "NAME_INVALID").await;
    check(&format!("/v2/lib%0d%0a/demo/blobs/sha256:{WEIGHTS}"), 400, "NAME_INVALID").await;
    let absent = lab.get("/v2/library/other/manifests/1b").await;
    assert_eq!(absent.header("x-ollamamax-error"), Some("model_not_found"));
    assert!(absent.text().contains("other:1b: file does not exist"), "{}", absent.text());
}

#[tokio::test]
async fn a_node_of_no_cluster_gives_nothing_yet() {
    let lab = Lab::plain(false).await;
    assert_eq!(lab.get("/v2/").await.status, 200);
    for path in [MANIFEST_PLACE, &blob_place(WEIGHTS)] {
        let answer = lab.get(path).await;
        let found = (answer.status, answer.header("x-ollamamax-error"), answer.header("retry-after"));
        assert_eq!(found, (503, Some("not_initialised"), Some("10")), "{path}");
        assert!(answer.text().contains("this node belongs to no cluster;"), "{}", answer.text());
    }
}

/// With many answers on one connection, a client that took none of them once held as many files in memory.
#[tokio::test]
async fn a_connection_has_one_answer_at_a_time() {
    let lab = Lab::plain(true).await;
    let mut stream = TcpStream::connect(lab.address).await.expect("it listens");
    // What HTTP/2 begins with, and no settings.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
    let mut answer = Vec::new();
    // Whether the end is told or the connection is cut depends on who is faster.
    drop(timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.expect("it is not spoken"));
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
}

#[tokio::test]
async fn one_connection_too_many_is_turned_away() {
    let lab = Lab::start(RegistryConfig { connections_max: 1, ..RegistryConfig::default() }, false, false).await;
    let mut first = TcpStream::connect(lab.address).await.expect("it listens");
    first.write_all(b"GET /v2/ HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut begun = [0; 12];
    first.read_exact(&mut begun).await.expect("answered");
    assert_eq!(&begun, b"HTTP/1.1 200");
    let second = lab.get("/v2/").await;
    assert_eq!(second.status, 503);
    assert!(lab.counted("ollamax_registry_refused_connections_total") > 0.0);
    drop(first);
}
