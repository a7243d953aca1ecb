//! A registry over a socket: what it gives, and everything that a registry may do instead.

use std::process::Stdio;
use std::time::Duration;

use futures::TryStreamExt as _;
use futures::future::{join, join_all, pending};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use url::Url;

use ollamax_outbound::registry::{Options, Ranged, Registry, RegistryError, Wanted};
use ollamax_testkit::FakeRegistry;
use ollamax_testkit::fake_registry::{Blob, FakeModel, Fault, FaultRule, On};
use ollamax_types::limits::MANIFEST_BYTES_MAX;
use ollamax_types::{Digest, ErrorCode, ModelName};

use crate::server::{Reply, Server, whole};

/// Length of the weights of the model that is pushed.
const SIZE: u64 = 300_000;
/// A time in which silence is seen in a test.
const SOON: Duration = Duration::from_millis(60);
/// Which registry the child process asks beside a far one.
const NEAR: &str = "OUTBOUND_TEST_NEAR_REGISTRY";
/// Which registry the child process asks over TLS.
const FAR: &str = "OUTBOUND_TEST_FAR_REGISTRY";
/// What says where a proxy is, and whether it may be used.
const PROXY_VARIABLES: [&str; 9] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "REQUEST_METHOD",
];

/// A registry with one model, and a client of it.
struct Lab {
    fake: FakeRegistry,
    registry: Registry,
    name: ModelName,
    weights: Blob,
    sha256: Digest,
}

// === impl Lab ===

impl Lab {
    async fn new() -> Self {
        Self::patient(Duration::ZERO).await
    }

    async fn patient(stall: Duration) -> Self {
        let fake = FakeRegistry::start().await.expect("a registry");
        let model = FakeModel::of(7, SIZE);
        fake.push("tiny", &model);
        let name = format!("{}/library/tiny", fake.host()).parse().expect("a name");
        let registry = Registry::new(Options { base: None, stall }).expect("a client");
        let sha256 = model.weights.sha256();
        Self { fake, registry, name, weights: model.weights, sha256 }
    }

    fn wanted(&self, from: u64, until: u64) -> Wanted {
        Wanted { name: self.name.clone(), insecure: true, sha256: self.sha256, size_bytes: SIZE, from, until }
    }

    async fn manifest(&self) -> Result<Vec<u8>, RegistryError> {
        self.registry.manifest(&self.name, true).await.map(|bytes| bytes.to_vec())
    }

    /// The bytes of a range, and how they ended.
    async fn range(&self, from: u64, until: u64) -> Result<Vec<u8>, RegistryError> {
        let (bytes, ended) = read(self.registry.range(self.wanted(from, until)).await?).await;
        ended.map(|()| bytes)
    }

    /// What a range must be.
    fn bytes(&self, from: u64, until: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(until - from).expect("few")];
        self.weights.read(from, &mut bytes);
        bytes
    }

    /// How often the registry itself, and the address behind its redirect, was asked for a file.
    fn asked(&self) -> (usize, usize) {
        let record = self.fake.record();
        (record.count("/v2/library/tiny/blobs/"), record.count("/direct/"))
    }
}

/// What comes of a body, and how it ends.
async fn read(ranged: Ranged) -> (Vec<u8>, Result<(), RegistryError>) {
    let (mut body, mut bytes) = (ranged.body, Vec::new());
    loop {
        match body.try_next().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return (bytes, Ok(())),
            Err(error) => {
                assert!(body.try_next().await.expect("no second error").is_none(), "an error is the end");
                return (bytes, Err(error));
            }
        }
    }
}

/// An error's words, which never have in them what opens something.
fn words(error: &RegistryError) -> String {
    let text = format!("{error} {error:?}");
    assert!(!text.contains("sig=") && !text.contains("token-"), "an address is as good as a key: {text}");
    error.to_string()
}

/// A client whose names without a host are asked at a scripted server.
fn client(server: &Server) -> Registry {
    Registry::new(Options { base: Some(server.url.clone()), stall: Duration::ZERO }).expect("a client")
}

/// The bytes 2 to 5 of a file of ten.
fn four_of_ten() -> Wanted {
    let name = "tiny".parse().expect("a name");
    Wanted { name, insecure: false, sha256: Digest([7; 32]), size_bytes: 10, from: 2, until: 6 }
}

/// An answer as it stands, and the end of the connection.
fn raw(head: &str, body: &str) -> Reply {
    Reply::Bytes(format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n{body}").into_bytes())
}

#[tokio::test]
async fn a_manifest_is_asked_for_by_its_digest_and_a_registry_need_not_have_it() {
    let (lab, digest) = (Lab::new().await, Digest([0xab; 32]));
    assert_eq!(lab.registry.manifest_of(&lab.name, digest, true).await, Err(RegistryError::NotFound));
    lab.fake.push_manifest(&format!("library/tiny:sha256:{digest}"), "{}");
    assert_eq!(lab.registry.manifest_of(&lab.name, digest, true).await.expect("a manifest"), "{}");
    let paths: Vec<String> = lab.fake.record().seen.iter().map(|seen| seen.path.clone()).collect();
    assert_eq!(paths, [(); 2].map(|()| format!("/v2/library/tiny/manifests/sha256:{digest}")));
}

#[tokio::test]
async fn a_manifest_comes_byte_for_byte() {
    let lab = Lab::new().await;
    assert_eq!(lab.manifest().await.expect("a manifest"), FakeModel::of(7, SIZE).manifest());
    let record = lab.fake.record();
    let seen = record.seen.last().expect("a request");
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/v2/library/tiny/manifests/latest"));
    assert_eq!((&seen.host, seen.authorised), (&lab.fake.host(), false));

    let base: Url = lab.fake.url().parse().expect("a URL");
    let mirror = Registry::new(Options { base: Some(base), stall: Duration::ZERO }).expect("a client");
    let short: ModelName = "tiny".parse().expect("a name");
    assert_eq!(mirror.manifest(&short, false).await.expect("a manifest"), FakeModel::of(7, SIZE).manifest());
    assert_eq!(format!("{mirror:?}"), format!("Registry({})", lab.fake.host()));
}

#[tokio::test]
async fn it_says_who_it_is_and_what_it_reads() {
    let server = Server::start(|_| whole(200, "application/json", "{}")).await;
    let name = "me/tiny:1b".parse().expect("a name");
    client(&server).manifest(&name, false).await.expect("a manifest");
    let head = server.last().head.to_lowercase();
    assert!(head.starts_with("get /v2/me/tiny/manifests/1b http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nuser-agent: ollamax/"), "{head}");
    assert!(head.contains("\r\naccept: application/vnd.docker.distribution.manifest.v2+json\r\n"), "{head}");
    assert!(!head.contains("\r\nauthorization:") && !head.contains("\r\nreferer:"), "{head}");
}

#[tokio::test]
async fn what_does_not_exist_is_told_in_ollamas_words() {
    let mut lab = Lab::new().await;
    let other = format!("{}/library/other", lab.fake.host()).parse().expect("a name");
    let error = lab.registry.manifest(&other, true).await.expect_err("no such model");
    assert_eq!((error.to_string().as_str(), error.code()), ("file does not exist", ErrorCode::ModelNotFound));
    lab.sha256 = Digest([7; 32]);
    let error = lab.range(0, 10).await.expect_err("no such file");
    let expected = RegistryError::BlobNotFound { host: lab.fake.host(), sha256: lab.sha256 };
    assert_eq!((&error, error.code()), (&expected, ErrorCode::OriginFailed), "the model is there");
}

#[tokio::test]
async fn a_registry_that_speaks_plain_http_is_told_with_what_helps() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let host = listener.local_addr().expect("bound").to_string();
    let answered = async {
        let (mut stream, _) = listener.accept().await.expect("somebody asks");
        stream.read_buf(&mut Vec::<u8>::new()).await.expect("the beginning of TLS");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.expect("it listens");
        pending::<()>().await;
    };
    let registry = Registry::new(Options::default()).expect("a client");
    let name = format!("{host}/library/tiny").parse().expect("a name");
    let error = tokio::select! {
        asked = registry.manifest(&name, false) => asked.expect_err("it speaks no TLS"),
        () = answered => unreachable!("it never ends"),
    };
    assert_eq!((&error, error.code()), (&RegistryError::PlainHttp { host }, ErrorCode::ManifestInvalid));
    assert!(words(&error).contains("--insecure"), "{error}");
}

#[tokio::test]
async fn ranges_come_from_behind_the_redirect_whose_address_is_kept() {
    let lab = Lab::new().await;
    for (from, until) in [(0, SIZE), (0, 1), (SIZE - 1, SIZE), (70_000, 200_000)] {
        assert_eq!(lab.range(from, until).await.expect("a range"), lab.bytes(from, until), "{from} {until}");
    }
    assert_eq!(lab.asked(), (1, 4));
    let record = lab.fake.record();
    let direct: Vec<_> = record.seen.iter().filter(|seen| seen.path.starts_with("/direct/")).collect();
    assert!(direct.iter().all(|seen| seen.host.starts_with("localhost:")), "another host: {direct:?}");
    assert_eq!(direct.last().expect("asked").range, Some((70_000, 200_000)));
    assert_eq!(lab.fake.sent(lab.sha256), SIZE + 1 + 1 + 130_000, "nothing beyond what was asked for");
}

#[tokio::test]
async fn a_range_without_a_byte_asks_nobody() {
    let lab = Lab::new().await;
    for (from, until) in [(0, 0), (5, 5), (6, 5), (SIZE, SIZE + 1)] {
        assert_eq!(lab.range(from, until).await, Ok(Vec::new()), "{from} {until}");
    }
    assert_eq!(lab.range(SIZE - 2, SIZE + 9).await, Ok(lab.bytes(SIZE - 2, SIZE)), "a file ends where it ends");
    assert_eq!(lab.asked(), (1, 1));
}

#[tokio::test]
async fn redirects_are_followed_without_the_token() {
    let lab = Lab::new().await;
    lab.fake.inject(FaultRule::always(On::Manifest, Fault::Challenge));
    lab.fake.inject(FaultRule::always(On::Blob, Fault::Challenge));
    lab.manifest().await.expect("with a token");
    assert_eq!(lab.range(3, 9).await.expect("with a token"), lab.bytes(3, 9));
    let record = lab.fake.record();
    assert_eq!(record.leaked, Vec::<String>::new(), "a token is for its registry alone");
    let told: Vec<_> = record.seen.iter().map(|seen| (seen.path.as_str(), seen.authorised)).collect();
    let manifest = "/v2/library/tiny/manifests/latest";
    assert_eq!(told[..3], [(manifest, false), ("/token", false), (manifest, true)]);
    assert_eq!((told.len(), told[3].1, told[4].1), (5, true, false), "the token was kept: {told:?}");
}

#[tokio::test]
async fn a_challenge_is_answered_once() {
    let lab = Lab::new().await;
    lab.fake.inject(FaultRule::always(On::Manifest, Fault::Challenge));
    lab.fake.inject(FaultRule::always(On::Blob, Fault::Challenge));
    let ranges = join_all((0..8).map(|index| lab.range(index * 10, index * 10 + 10))).await;
    for (index, range) in (0..).zip(ranges) {
        assert_eq!(range.expect("a range"), lab.bytes(index * 10, index * 10 + 10));
    }
    assert_eq!(lab.fake.record().count("/token"), 1, "who comes meanwhile waits for the first");
    lab.fake.forget_tokens();
    lab.manifest().await.expect("with a new token");
    assert_eq!(lab.fake.record().count("/token"), 2);
}

#[tokio::test]
async fn who_is_not_let_in_is_told_so() {
    let lab = Lab::new().await;
    let unauthorized = RegistryError::Unauthorized { host: lab.fake.host() };
    // No challenge that could be answered.
    lab.fake.inject(FaultRule::once(On::Manifest, Fault::Status(401, None)));
    assert_eq!(lab.manifest().await, Err(unauthorized.clone()));
    // A token that does not help.
    lab.fake.inject(FaultRule::once(On::Manifest, Fault::Challenge));
    lab.fake.inject(FaultRule::once(On::Manifest, Fault::Status(401, None)));
    assert_eq!(lab.manifest().await, Err(unauthorized.clone()));
    assert_eq!(unauthorized.code(), ErrorCode::OriginRefused);
    // No token.
    lab.fake.forget_tokens();
    lab.fake.inject(FaultRule::always(On::Manifest, Fault::Challenge));
    lab.fake.inject(FaultRule::once(On::Token, Fault::Status(403, None)));
    assert_eq!(lab.manifest().await, Err(unauthorized));
    lab.fake.inject(FaultRule::once(On::Token, Fault::Status(503, None)));
    let error = lab.manifest().await.expect_err("busy");
    assert!(matches!(error, RegistryError::Busy { status: 503, .. }), "{error:?}");
    lab.fake.inject(FaultRule::once(On::Token, Fault::Html));
    let error = lab.manifest().await.expect_err("a page");
    assert!(words(&error).ends_with("something else than was asked for: no token"), "{error}");
    lab.manifest().await.expect("with the token that comes at last");
}

#[tokio::test]
async fn a_login_elsewhere_is_not_followed() {
    let stranger = FakeRegistry::start().await.expect("a registry");
    let realm = format!("{}/token?sig=1", stranger.url()).replace("127.0.0.1", "localhost");
    let server = Server::start(move |_| {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"x\"");
        raw(&format!("401 X\r\nwww-authenticate: {challenge}\r\ncontent-length: 0"), "")
    });
    let server = server.await;
    let error = client(&server).manifest(&four_of_ten().name, false).await.expect_err("a foreign login");
    assert!(words(&error).contains("redirects its login to http://localhost:"), "{error}");
    assert!(stranger.record().seen.is_empty(), "nobody went there");
}

#[tokio::test]
async fn an_expired_address_is_resolved_again() {
    let lab = Lab::new().await;
    lab.range(0, 10).await.expect("a range");
    lab.fake.inject(FaultRule::once(On::Direct, Fault::Expired));
    assert_eq!(lab.range(10, 20).await.expect("by a new address"), lab.bytes(10, 20));
    assert_eq!(lab.asked(), (2, 3));
    // One that is no better when it is new is told of, and not kept.
    lab.fake.inject(FaultRule::always(On::Direct, Fault::Status(403, None)));
    let error = lab.range(20, 30).await.expect_err("refused");
    assert!(matches!(&error, RegistryError::Refused { status: 403, .. }), "{error:?}");
    assert!(words(&error).contains("answers status 403: ASKED_TO_FAIL"), "{error}");
    assert_eq!((error.code(), lab.asked()), (ErrorCode::OriginRefused, (3, 5)));
    lab.fake.heal();
    assert_eq!(lab.range(20, 30).await.expect("by a new address"), lab.bytes(20, 30));
    assert_eq!(lab.asked(), (4, 6));
}

#[tokio::test]
async fn who_is_busy_says_when_to_come_again() {
    let lab = Lab::new().await;
    let check = async |on: On, status: u16, after: Option<u64>| {
        lab.fake.inject(FaultRule::once(on, Fault::Status(status, after)));
        let error = match on {
            On::Manifest => lab.manifest().await.map(drop),
            _ => lab.range(0, 10).await.map(drop),
        };
        let error = error.expect_err("busy");
        let expected = after.map(Duration::from_secs);
        let is_that = matches!(error, RegistryError::Busy { status: s, after: a, .. } if (s, a) == (status, expected));
        assert!(is_that, "{error:?}");
        assert_eq!(error.code(), ErrorCode::OriginFailed);
        words(&error);
    };
    check(On::Manifest, 429, Some(7)).await;
    check(On::Manifest, 408, None).await;
    check(On::Blob, 503, Some(120)).await;
    lab.range(0, 10).await.expect("a range");
    assert_eq!(lab.asked(), (2, 1));
    check(On::Direct, 500, None).await;
    lab.range(0, 10).await.expect("a range");
    assert_eq!(lab.asked(), (2, 3), "an address is kept where only its host has trouble");
    check(On::Direct, 429, Some(1)).await;
    lab.range(0, 10).await.expect("a range");
    assert_eq!(lab.asked(), (3, 5), "and forgotten where it was refused");
}

#[tokio::test]
async fn a_range_that_is_not_what_was_asked_for_is_refused() {
    let check = async |head: &'static str, body: &'static str, expected: &str| {
        let server = Server::start(move |_| raw(head, body)).await;
        let error = client(&server).range(four_of_ten()).await.expect_err("not what was asked for");
        assert!(matches!(error, RegistryError::Garbled { .. }), "{error:?}");
        assert!(words(&error).contains(expected), "{error}");
        assert_eq!(error.code(), ErrorCode::ManifestInvalid);
        assert!(server.last().head.to_lowercase().contains("\r\nrange: bytes=2-5\r\n"), "{}", server.last().head);
    };
    check("206 X\r\ncontent-range: bytes 2-4/10\r\ncontent-length: 3", "234", "\"bytes 2-4/10\" for bytes 2-5 of 10")
        .await;
    check("206 X\r\ncontent-range: bytes 2-5/11\r\ncontent-length: 4", "2345", "a file of 11 bytes instead of 10")
        .await;
    check("206 X\r\ncontent-range: bytes 2-5/10\r\ncontent-length: 3", "234", "3 bytes for bytes 2-5").await;
    check("206 X\r\ncontent-length: 4", "2345", "a part without saying which").await;
    check("200 X\r\ncontent-length: 4", "2345", "a file of 4 bytes instead of 10").await;
    check("200 X\r\ntransfer-encoding: chunked", "0\r\n\r\n", "a file that does not say its length").await;
    check("200 X\r\ncontent-encoding: gzip\r\ncontent-length: 10", "0123456789", "in the coding \"gzip\"").await;
    check("204 X", "", "status 204").await;

    let lab = Lab::new().await;
    lab.fake.inject(FaultRule::once(On::Direct, Fault::WrongTotal));
    let error = lab.range(0, 10).await.expect_err("another file");
    assert!(words(&error).contains("a file of 300001 bytes instead of 300000"), "{error}");
    lab.fake.inject(FaultRule::once(On::Direct, Fault::Html));
    assert!(words(&lab.range(0, 10).await.expect_err("a page")).contains("a file of "));
}

#[tokio::test]
async fn more_than_was_promised_is_not_taken() {
    let chunks = "3\r\n234\r\n3\r\n567\r\n0\r\n\r\n";
    let head = "206 X\r\ncontent-range: bytes 2-5/10\r\ntransfer-encoding: chunked";
    let server = Server::start(move |_| raw(head, chunks)).await;
    let (bytes, ended) = read(client(&server).range(four_of_ten()).await.expect("the head is right")).await;
    let error = ended.expect_err("a byte too many");
    assert!(bytes.len() <= 4 && words(&error).contains("more than the 4 bytes that it promised"), "{error}");
}

#[tokio::test]
async fn a_host_without_ranges_sends_the_whole_file() {
    let lab = Lab::new().await;
    for on in [On::Direct, On::Blob] {
        lab.fake.inject(FaultRule::once(on, Fault::NoRanges));
        let fresh = Registry::new(Options::default()).expect("a client");
        let ranged = fresh.range(lab.wanted(100, 200)).await.expect("an answer");
        assert!(ranged.whole);
        let (bytes, ended) = read(ranged).await;
        assert_eq!((ended, bytes), (Ok(()), lab.bytes(0, SIZE)), "{on:?}");
    }
}

#[tokio::test]
async fn redirects_that_lead_astray_end() {
    let lab = Lab::new().await;
    let check = async |on: On, fault: Fault, expected: &str, asked: usize| {
        let before = lab.fake.record().seen.len();
        lab.fake.inject(FaultRule::always(on, fault));
        let error = lab.range(0, 10).await.expect_err("astray");
        assert!(matches!(error, RegistryError::Redirect { .. }), "{error:?}");
        assert!(words(&error).ends_with(expected), "{error}");
        assert_eq!(lab.fake.record().seen.len() - before, asked, "{expected}");
        lab.fake.heal();
    };
    check(On::Blob, Fault::RedirectLoop, "redirects more than 10 times", 11).await;
    check(On::Direct, Fault::RedirectLoop, "redirects more than 10 times", 11).await;
    check(On::Blob, Fault::NoLocation, "redirects without saying where to", 1).await;
    check(On::Direct, Fault::NoLocation, "redirects without saying where to", 2).await;
}

#[tokio::test]
async fn a_cut_says_how_much_came_and_the_rest_can_be_asked_for() {
    let lab = Lab::new().await;
    lab.fake.inject(FaultRule::once(On::Direct, Fault::CutAfter(10_000)));
    let (mut bytes, ended) = read(lab.registry.range(lab.wanted(0, SIZE)).await.expect("a head")).await;
    let error = ended.expect_err("cut off");
    assert!(matches!(error, RegistryError::Cut { got: 10_000, wanted: SIZE, .. }), "{error:?}");
    assert!(words(&error).ends_with("broke off after 10000 of 300000 bytes"), "{error}");
    assert_eq!((bytes.len(), error.code()), (10_000, ErrorCode::OriginFailed));
    bytes.extend(lab.range(10_000, SIZE).await.expect("the rest"));
    assert!(bytes == lab.bytes(0, SIZE), "the bytes are others");
    assert_eq!((lab.asked(), lab.fake.sent(lab.sha256)), ((1, 2), SIZE), "nothing was sent twice");
}

#[tokio::test]
async fn a_manifest_that_is_none_is_refused() {
    let lab = Lab::new().await;
    let full = format!("{{{}", " ".repeat(MANIFEST_BYTES_MAX - 1));
    lab.fake.push_manifest("tiny", full.clone());
    assert_eq!(lab.manifest().await.expect("just not too large").len(), MANIFEST_BYTES_MAX);
    let too_large = RegistryError::TooLarge { limit_bytes: MANIFEST_BYTES_MAX };
    lab.fake.push_manifest("tiny", format!("{full} "));
    assert_eq!(lab.manifest().await, Err(too_large.clone()));
    let chunk = format!("{:x}\r\n{full} \r\n0\r\n\r\n", MANIFEST_BYTES_MAX + 1);
    let server = Server::start(move |_| raw("200 X\r\ntransfer-encoding: chunked", &chunk)).await;
    assert_eq!(client(&server).manifest(&four_of_ten().name, false).await, Err(too_large));

    lab.fake.push_manifest("tiny", r#"{"schemaVersion":2}"#);
    lab.fake.inject(FaultRule::once(On::Manifest, Fault::CutAfter(5)));
    let cut = RegistryError::Cut { host: lab.fake.host(), got: 5, wanted: 19 };
    assert_eq!(lab.manifest().await, Err(cut));
    lab.fake.inject(FaultRule::once(On::Manifest, Fault::Html));
    let error = lab.manifest().await.expect_err("a page");
    assert!(words(&error).contains("no manifest (status 200, content type \"text/html\")"), "{error}");
    assert_eq!(error.code(), ErrorCode::ManifestInvalid);
    for other in ["", "\n", "[]", "\"x\""] {
        lab.fake.push_manifest("tiny", other);
        let error = lab.manifest().await.expect_err("no manifest");
        assert!(matches!(error, RegistryError::Garbled { .. }), "{other:?}: {error:?}");
    }
    lab.fake.inject(FaultRule::once(On::Manifest, Fault::Status(400, None)));
    let error = lab.manifest().await.expect_err("refused");
    assert_eq!(
        (error.code(), words(&error)),
        (ErrorCode::OriginFailed, format!("{} answers status 400: ASKED_TO_FAIL", lab.fake.host()))
    );
}

#[tokio::test]
async fn a_manifest_without_a_length_that_breaks_off_is_no_manifest() {
    let server = Server::start(|_| raw("200 X\r\ntransfer-encoding: chunked", "a\r\n{\"a\"")).await;
    let error = client(&server).manifest(&four_of_ten().name, false).await.expect_err("cut off");
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn silence_is_told_after_its_time() {
    let lab = Lab::patient(SOON).await;
    let is_that = |error: &RegistryError| matches!(error, RegistryError::Stalled { after, .. } if *after == SOON);
    for on in [On::Blob, On::Direct] {
        lab.fake.inject(FaultRule::once(on, Fault::Stall));
        let error = lab.range(0, 10).await.expect_err("silence");
        assert!(is_that(&error), "{on:?} {error:?}");
        words(&error);
    }
    lab.fake.inject(FaultRule::once(On::Manifest, Fault::Stall));
    let error = lab.manifest().await.expect_err("silence");
    assert!(is_that(&error) && error.code() == ErrorCode::OriginFailed, "{error:?}");
    lab.fake.inject(FaultRule::always(On::Manifest, Fault::Challenge));
    lab.fake.inject(FaultRule::once(On::Token, Fault::Stall));
    let error = lab.manifest().await.expect_err("silence");
    assert!(is_that(&error), "{error:?}");
}

#[tokio::test]
async fn a_manifest_that_stands_still_is_given_up() {
    let head = b"HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\n{";
    let server = Server::start(move |_| Reply::Hold(head.to_vec())).await;
    let registry = Registry::new(Options { base: Some(server.url.clone()), stall: SOON }).expect("a client");
    let error = registry.manifest(&four_of_ten().name, false).await.expect_err("silence");
    assert!(matches!(error, RegistryError::Stalled { after, .. } if after == SOON), "{error:?}");
}

#[tokio::test]
async fn who_cannot_be_reached_is_named_without_its_address() {
    let server = Server::start(|line| {
        if line.starts_with("GET /direct") {
            return raw("206 X\r\ncontent-range: bytes 2-5/10\r\ncontent-length: 4", "2345");
        }
        raw("307 X\r\nlocation: /direct?sig=1\r\ncontent-length: 0", "")
    });
    let server = server.await;
    let (registry, host) = (client(&server), server.url.authority().to_owned());
    let (bytes, ended) = read(registry.range(four_of_ten()).await.expect("a range")).await;
    assert_eq!((bytes.as_slice(), ended), (b"2345".as_slice(), Ok(())));
    drop(server);
    let error = registry.range(four_of_ten()).await.expect_err("nobody there");
    assert!(matches!(&error, RegistryError::Unreachable { host: named, .. } if *named == host), "{error:?}");
    assert_eq!(error.code(), ErrorCode::OriginFailed);
    words(&error);
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_at_once() {
    let base = "ftp://me:token-1@models.lan/".parse().expect("a URL");
    let error = Registry::new(Options { base: Some(base), stall: Duration::ZERO }).expect_err("no HTTP");
    assert!(words(&error).starts_with("models.lan cannot be reached: its address begins with neither"), "{error}");
    let registry = Registry::new(Options::default()).expect("a client");
    let name = "a:b:c/me/tiny".parse().expect("a name");
    let error = registry.manifest(&name, false).await.expect_err("no port");
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_held_comes_when_it_is_let_go() {
    let lab = Lab::new().await;
    let hold = lab.fake.hold_after(lab.sha256, 100_000);
    let let_go = async {
        hold.reached().await;
        assert_eq!(lab.fake.sent(lab.sha256), 100_000);
        hold.release();
    };
    let (range, ()) = join(lab.range(0, SIZE), let_go).await;
    assert!(range.expect("a range") == lab.bytes(0, SIZE), "the bytes are others");
    lab.fake.corrupt(lab.sha256, 5);
    let damaged = lab.range(0, 10).await.expect("a range");
    let wrong: Vec<usize> = (0..10).filter(|at| damaged[*at] != lab.bytes(0, 10)[*at]).collect();
    assert_eq!(wrong, [5]);
    lab.fake.heal();
    lab.fake.inject(FaultRule::once(On::Direct, Fault::Trickle(4 << 20)));
    assert_eq!(lab.range(0, 60_000).await.expect("slowly"), lab.bytes(0, 60_000));
}

/// Not a test of its own: what the child process of the next one runs.
#[tokio::test]
async fn child_asks_a_far_registry_and_a_near_one() {
    let Ok(near) = std::env::var(NEAR) else { return };
    let registry = Registry::new(Options::default()).expect("a client");
    for host in ["models.example", near.as_str()] {
        let name = format!("{host}/library/tiny").parse().expect("a name");
        registry.manifest(&name, true).await.expect("a manifest");
    }
}

/// Not a test of its own: what the child process of the last one runs.
#[tokio::test]
async fn child_asks_a_far_registry_over_tls() {
    let Ok(far) = std::env::var(FAR) else { return };
    let registry = Registry::new(Options::default()).expect("a client");
    let name = format!("{far}/library/tiny").parse().expect("a name");
    registry.manifest(&name, false).await.expect_err("nobody speaks TLS behind that proxy");
}

/// Runs one test of this binary with these variables and no other ones that tell of proxies.
async fn run_child<const N: usize>(test: &str, environment: [(&str, String); N]) {
    let mut child = Command::new(std::env::current_exe().expect("this binary"));
    child.args(["--exact", test, "--nocapture"]);
    for variable in PROXY_VARIABLES {
        child.env_remove(variable);
    }
    let output = child.envs(environment).stdin(Stdio::null()).kill_on_drop(true).output().await.expect("a child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn the_proxy_of_the_environment_is_used_and_not_for_loopback() {
    let (proxy, near) = (Lab::new().await, Lab::new().await);
    let environment = [("HTTP_PROXY", proxy.fake.url()), (NEAR, near.fake.host())];
    run_child("registry::child_asks_a_far_registry_and_a_near_one", environment).await;
    let hosts = |lab: &Lab| lab.fake.record().seen.into_iter().map(|seen| seen.host).collect::<Vec<_>>();
    assert_eq!(hosts(&proxy), ["models.example"]);
    assert_eq!(hosts(&near), [near.fake.host()]);
}

/// The way through the proxy is asked for, and nothing of the question is told to it.
#[tokio::test]
async fn a_registry_over_tls_is_asked_through_a_tunnel_of_the_proxy() {
    for answer in ["200 Connection established", "407 Proxy Authentication Required"] {
        let answer = format!("HTTP/1.1 {answer}\r\n\r\n");
        let proxy = Server::start(move |_| Reply::Bytes(answer.clone().into_bytes())).await;
        let environment = [("HTTPS_PROXY", proxy.url.to_string()), (FAR, "models.example".to_owned())];
        run_child("registry::child_asks_a_far_registry_over_tls", environment).await;
        let seen = proxy.seen.lock().expect("not poisoned").clone();
        let lines: Vec<&str> = seen.iter().filter_map(|seen| seen.head.lines().next()).collect();
        assert_eq!(lines, ["CONNECT models.example:443 HTTP/1.1"]);
        assert!(!seen[0].head.contains("library"), "{}", seen[0].head);
    }
}
