//! The nodes of a bridge: the daemon of this machine through its admin socket, its listener for clients, and those that
//! were named.
//!
//! Where the daemon is is looked up for each connection, since it may be started, moved or replaced while an assistant
//! runs. Who opens the socket has the rights of its user; over the listener programs of this machine may read and ask
//! models. A connection that has gone quiet is checked each second, so that a machine that died is noticed.

use std::io;
#[cfg(unix)]
use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::ServiceExt as _;

use super::exchange::{Way, Ways};
use crate::args::Global;
use crate::error::Failure;
use crate::http_client::deepest;
use crate::place;

/// Nodes that may be named.
const NODES_MAX: usize = 16;
/// Where a daemon listens for clients unless it was told otherwise.
const LISTENER: &str = "http://127.0.0.1:11435";
/// How long a connection is quiet before its other end is asked whether it is there, and how long that may take to say
/// so.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// The path of the protocol.
const PATH: &str = "/mcp";
/// Words of `--node` that make sense.
const EXAMPLE: &str = "ollamax mcp --node http://HOST:11435";

/// Where one of them is.
#[derive(Debug, Clone)]
enum Target {
    /// The admin socket of this machine's daemon.
    #[cfg(unix)]
    Socket,
    /// The listener for clients of this machine's daemon.
    Listener,
    /// One that was named.
    Named(Address),
}

/// Where an HTTP listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    base: Uri,
    host: String,
    path: String,
}

/// All of them, in the order in which they are asked.
#[derive(Debug)]
pub(crate) struct Targets {
    global: Global,
    targets: Vec<Target>,
}

// === impl Targets ===

impl Targets {
    /// Those of this machine, then the ones that were named.
    ///
    /// # Errors
    /// When one makes no sense, or there are too many.
    pub(crate) fn new(global: &Global, named: &[String]) -> Result<Self, Failure> {
        if named.len() > NODES_MAX {
            return Err(Failure::usage(format!("--node names more than {NODES_MAX} nodes"), "name fewer"));
        }
        let mut targets = own();
        for url in named {
            let what = |why: String| Failure::usage(format!("--node {url}: {why}"), EXAMPLE);
            targets.push(Target::Named(Address::read(url).map_err(what)?));
        }
        Ok(Self { global: global.clone(), targets })
    }
}

impl Ways for Targets {
    fn count(&self) -> usize {
        self.targets.len()
    }

    fn name(&self, node: usize) -> String {
        match self.targets.get(node) {
            #[cfg(unix)]
            Some(Target::Socket) => "the daemon's socket".to_owned(),
            Some(Target::Listener) => "the daemon's listener".to_owned(),
            Some(Target::Named(address)) => address.base.to_string().trim_end_matches('/').to_owned(),
            None => String::new(),
        }
    }

    #[cfg(unix)]
    fn has_own_rights(&self, node: usize) -> bool {
        matches!(self.targets.get(node), Some(Target::Socket))
    }

    #[cfg(not(unix))]
    fn has_own_rights(&self, _node: usize) -> bool {
        false
    }

    fn is_same_node(&self, one: usize, other: usize) -> bool {
        let is_of_daemon = |way: usize| self.targets.get(way).is_some_and(|target| !matches!(target, Target::Named(_)));
        one == other || (is_of_daemon(one) && is_of_daemon(other))
    }

    fn connect(&self, node: usize) -> BoxFuture<'static, io::Result<Way>> {
        let global = self.global.clone();
        match self.targets.get(node).cloned() {
            #[cfg(unix)]
            Some(Target::Socket) => Box::pin(open_socket(global)),
            Some(Target::Listener) => Box::pin(async move { own_listener(&global)?.open().await }),
            Some(Target::Named(address)) => Box::pin(address.open()),
            None => Box::pin(async { Err::<Way, _>(io::Error::from(io::ErrorKind::NotFound)) }),
        }
    }
}

/// Those of this machine. Unix sockets are what tells who asks.
#[cfg(unix)]
fn own() -> Vec<Target> {
    vec![Target::Socket, Target::Listener]
}

#[cfg(not(unix))]
fn own() -> Vec<Target> {
    vec![Target::Listener]
}

#[cfg(unix)]
async fn open_socket(global: Global) -> io::Result<Way> {
    let path = place::data_dir(&global).map(|dir| place::socket(&dir)).map_err(|failure| in_words(&failure))?;
    let stream = tokio::net::UnixStream::connect(&path).await.map_err(|error| unopened(&path, error))?;
    Ok(Way { wire: Box::new(stream), host: "localhost".to_owned(), path: PATH.to_owned() })
}

/// Why the socket could not be opened; whoever may not open it hears how they may.
#[cfg(unix)]
fn unopened(path: &Path, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => in_words(&place::unusable(path, &error)),
        _ => error,
    }
}

#[cfg(unix)]
fn in_words(failure: &Failure) -> io::Error {
    io::Error::other(format!("{}; {}", failure.what(), failure.next()))
}

/// Where this machine's daemon listens for clients, as it says itself, else where it does by default.
fn own_listener(global: &Global) -> io::Result<Address> {
    let file = place::node_file(global).ok();
    let url = file.as_ref().and_then(|file| file["api"].as_str()).filter(|url| !url.is_empty());
    let address = Address::read(&of_this_machine(url.unwrap_or(LISTENER)));
    address.map_err(|why| io::Error::other(format!("node.json names no listener: {why}")))
}

/// A listener on all addresses, by that of this machine.
fn of_this_machine(url: &str) -> String {
    url.replacen("//0.0.0.0", "//127.0.0.1", 1).replacen("//[::]", "//[::1]", 1)
}

// === impl Address ===

impl Address {
    fn read(url: &str) -> Result<Self, String> {
        let base: Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
        if base.scheme_str() != Some("http") {
            return Err("it must begin with http://; nodes speak no TLS to clients".to_owned());
        }
        let authority = base.authority().filter(|authority| !authority.host().is_empty()).ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("nodes know no names and no passwords".to_owned());
        }
        let host = authority.as_str().to_owned();
        let given = base.path().trim_end_matches('/');
        let path = if given.ends_with(PATH) { given.to_owned() } else { format!("{given}{PATH}") };
        Ok(Self { base, host, path })
    }

    async fn open(self) -> io::Result<Way> {
        let opened = connector().oneshot(self.base).await;
        let stream: TokioIo<TcpStream> = opened.map_err(|error| io::Error::other(deepest(&error)))?;
        Ok(Way { wire: Box::new(stream.into_inner()), host: self.host, path: self.path })
    }
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_keepalive(Some(QUIET_MAX));
    connector.set_keepalive_interval(Some(QUIET_MAX));
    connector.set_keepalive_retries(Some(1));
    #[cfg(target_os = "linux")]
    connector.set_tcp_user_timeout(Some(QUIET_MAX));
    connector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_by_their_listener_with_or_without_the_path() {
        let check = |url: &str, expected: Option<(&str, &str)>| {
            let found = Address::read(url).ok();
            let found = found.as_ref().map(|address| (address.host.as_str(), address.path.as_str()));
            assert_eq!(found, expected, "{url}");
        };
        check("http://a.lan:11435", Some(("a.lan:11435", "/mcp")));
        check("http://a.lan:11435/", Some(("a.lan:11435", "/mcp")));
        check("http://a.lan:11435/mcp", Some(("a.lan:11435", "/mcp")));
        check("http://a.lan/lab", Some(("a.lan", "/lab/mcp")));
        check("http://[::1]:11435", Some(("[::1]:11435", "/mcp")));
        for url in ["a.lan:11435", "https://a.lan", "/mcp", "http://", "http://me:secret@a.lan", "", "nonsense"] {
            check(url, None);
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_called_by_this_machines() {
        let check = |url: &str, expected: &str| assert_eq!(of_this_machine(url), expected);
        check("http://0.0.0.0:11435", "http://127.0.0.1:11435");
        check("http://[::]:11435", "http://[::1]:11435");
        check("http://127.0.0.1:11435", "http://127.0.0.1:11435");
        check("http://10.0.0.2:11435", "http://10.0.0.2:11435");
    }

    #[cfg(unix)]
    #[test]
    fn who_may_not_open_the_socket_hears_how_they_may() {
        let check = |kind: io::ErrorKind, expected: &str| {
            let told = unopened(Path::new("/nowhere/admin.sock"), kind.into());
            assert_eq!(told.to_string(), expected);
        };
        let next = "repeat it with sudo, or as the user that runs the daemon";
        let denied = format!("/nowhere/admin.sock may not be used by this user; {next}");
        check(io::ErrorKind::PermissionDenied, &denied);
        check(io::ErrorKind::ConnectionRefused, "connection refused");
    }

    #[test]
    fn this_machines_daemon_is_asked_before_those_that_are_named() {
        let global = Global { data_dir: None, output: crate::args::Output::Table, verbose: false };
        let named = ["http://a.lan:11435".to_owned(), "http://b.lan:11435/mcp".to_owned()];
        let targets = Targets::new(&global, &named).expect("sound");
        let names: Vec<String> = (0..targets.count()).map(|node| targets.name(node)).collect();
        assert_eq!(names[names.len() - 3..], ["the daemon's listener", "http://a.lan:11435", "http://b.lan:11435/mcp"]);
        #[cfg(unix)]
        assert_eq!(names[0], "the daemon's socket");
        let own = (0..targets.count()).filter(|node| targets.has_own_rights(*node)).count();
        assert_eq!(own, usize::from(cfg!(unix)));
        // Its socket and its listener are one node, and whoever is named is another.
        let ways = targets.count();
        let daemons = (0..ways).filter(|way| targets.is_same_node(0, *way)).count();
        assert_eq!((daemons, ways), (own + 1, own + 3));
        assert!(!targets.is_same_node(ways - 1, ways - 2) && targets.is_same_node(ways - 1, ways - 1));
        let refused = |named: &[String]| Targets::new(&global, named).expect_err("refused").exit();
        assert_eq!(refused(&["https://a.lan".to_owned()]), 2);
        let many = vec!["http://a.lan".to_owned(); NODES_MAX + 1];
        assert_eq!(refused(&many), 2);
    }
}
