//! Who may call from where: the Host rule against DNS rebinding, the Origin rule against foreign web pages, CORS.
//!
//! The rules are Ollama's (0.24). A door on the loopback interface serves only hosts that name this machine; a browser
//! page may call only from this machine, from desktop programs, or from a configured origin. Others get 403 with an
//! empty body. Deciding is pure; only `hostname` and `is_own_address` ask the system. The gateway compiles this very
//! file, so that both doors answer alike; the table in `docs/api/ollama.md` is its test.

use std::net::{IpAddr, UdpSocket};

/// Pages of desktop programs, any text behind the scheme.
const APPS: [&str; 5] = ["app://", "file://", "tauri://", "vscode-webview://", "vscode-file://"];
const LOCAL_PAGES: [&str; 3] = ["localhost", "127.0.0.1", "0.0.0.0"];
const LOCAL_ENDINGS: [&str; 3] = [".localhost", ".local", ".internal"];
const ON_QUESTIONS: [(&str, &str); 4] = [
    ("access-control-allow-methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    (
        "access-control-allow-headers",
        "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,OpenAI-Beta,x-stainless-arch,x-stainless-async,\
         x-stainless-custom-poll-interval,x-stainless-helper-method,x-stainless-lang,x-stainless-os,\
         x-stainless-package-version,x-stainless-poll-helper,x-stainless-retry-count,x-stainless-runtime,\
         x-stainless-runtime-version,x-stainless-timeout",
    ),
    ("access-control-max-age", "43200"),
    ("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
];
const ON_REQUESTS: [(&str, &str); 1] = [("vary", "Origin")];

/// The rules of one door.
#[derive(Debug)]
pub(crate) struct Callers {
    /// The door is on the loopback interface: only hosts that name this machine are served.
    pub(crate) checks_hosts: bool,
    /// The name of this machine.
    pub(crate) hostname: String,
    /// Origins that may call beside those of this machine; `*` stands for any text.
    pub(crate) origins: Vec<String>,
    /// Whether this machine has an address.
    pub(crate) is_own: fn(IpAddr) -> bool,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on to its handler.
    Served,
    /// 204 without a body: a question (`OPTIONS`) needs no handler.
    Answered,
    /// 403 without a body.
    Refused,
}

/// A verdict, and what a browser is told beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) verdict: Verdict,
    /// For a known page of another origin: these headers, and its origin in `Access-Control-Allow-Origin`.
    pub(crate) cors: Option<&'static [(&'static str, &'static str)]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    /// No page, or one of this door itself.
    Same,
    Known,
    Foreign,
}

// === impl Callers ===

impl Callers {
    /// Decides on a request to `host`, as its Host header says, from a page of `origin`; `asks` is true for `OPTIONS`.
    pub(crate) fn decide(&self, asks: bool, host: &str, origin: Option<&str>) -> Decision {
        match (self.page(host, origin.unwrap_or_default()), asks) {
            (Page::Foreign, _) => Decision { verdict: Verdict::Refused, cors: None },
            (Page::Same, _) => Decision { verdict: self.of_host(asks, host), cors: None },
            (Page::Known, true) => Decision { verdict: Verdict::Answered, cors: Some(&ON_QUESTIONS) },
            (Page::Known, false) => Decision { verdict: self.of_host(asks, host), cors: Some(&ON_REQUESTS) },
        }
    }

    fn of_host(&self, asks: bool, host: &str) -> Verdict {
        let host = without_port(host);
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        if !self.checks_hosts || address.is_some_and(|address| is_near(address) || (self.is_own)(address)) {
            return Verdict::Served;
        }
        match (self.is_local_name(&host.to_lowercase()), asks) {
            (true, false) => Verdict::Served,
            (true, true) => Verdict::Answered,
            (false, _) => Verdict::Refused,
        }
    }

    fn is_local_name(&self, host: &str) -> bool {
        matches!(host, "" | "localhost")
            || host == self.hostname.to_lowercase()
            || LOCAL_ENDINGS.iter().any(|ending| host.ends_with(ending))
    }

    fn page(&self, host: &str, origin: &str) -> Page {
        let web = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if origin.is_empty() || web == Some(host) {
            return Page::Same;
        }
        let end = |rest: &str| rest.is_empty() || rest.starts_with(':');
        let is_known = LOCAL_PAGES.iter().any(|page| web.and_then(|web| web.strip_prefix(*page)).is_some_and(end))
            || APPS.iter().any(|scheme| origin.starts_with(scheme))
            || self.origins.iter().any(|pattern| matches_pattern(pattern, origin));
        if is_known { Page::Known } else { Page::Foreign }
    }
}

/// The name of this machine; empty where the system does not say.
pub(crate) fn hostname() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname");
    kernel.or_else(|_| std::fs::read_to_string("/etc/hostname")).map(|name| name.trim().to_owned()).unwrap_or_default()
}

/// Whether an address is one of this machine: the system lets nobody bind another one's, unless it was told to
/// (`ip_nonlocal_bind`).
pub(crate) fn is_own_address(address: IpAddr) -> bool {
    let is_many = address.is_multicast() || matches!(address, IpAddr::V4(four) if four.is_broadcast());
    !is_many && UdpSocket::bind((address, 0)).is_ok()
}

/// An address that no name server beyond the local network answers for.
const fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unspecified(),
    }
}

/// `name:port` and `[address]:port` without the port; anything else as it is.
fn without_port(host: &str) -> &str {
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
    match (bracketed, host.rsplit_once(':')) {
        (Some((address, port)), _) if !port.contains(':') => address,
        (None, Some((name, _))) if !name.contains(':') => name,
        _ => host,
    }
}

/// Whether a text matches a pattern in which `*` stands for any text.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = rest.split('*').collect();
    let (last, middle) = parts.split_last().map_or(("", &parts[..]), |(last, middle)| (*last, middle));
    for part in middle {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// The table is for people; `–` stands for nothing.
    #[test]
    fn every_row_of_the_papers_is_decided_as_it_says() {
        let papers = include_str!("../../../../docs/api/ollama.md");
        let mut rows = 0;
        for line in papers.lines().filter(|line| line.starts_with("| loopback |") || line.starts_with("| network |")) {
            let cells: Vec<&str> =
                line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            let [bound, method, host, origin, expected] = cells[..] else { panic!("five cells: {line}") };
            let [host, origin] = [host, origin].map(|cell| if cell == "–" { "" } else { cell });
            let callers = Callers {
                checks_hosts: bound == "loopback",
                hostname: "GPU-3".to_owned(),
                origins: ["https://*.lab", "http://one.example:8080"].map(str::to_owned).to_vec(),
                is_own: |address| address == Ipv4Addr::new(203, 0, 113, 7),
            };
            let decision = callers.decide(method == "OPTIONS", host, Some(origin));
            let verdict = match decision.verdict {
                Verdict::Served => "served",
                Verdict::Answered => "204",
                Verdict::Refused => "403",
            };
            let found = if decision.cors.is_some() { format!("{verdict}, CORS") } else { verdict.to_owned() };
            assert_eq!(found, expected, "{line}");
            rows += 1;
        }
        assert!(rows > 30, "{rows} rows");
    }

    #[test]
    fn an_address_that_can_be_bound_is_an_own_one() {
        assert!(is_own_address(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_own_address(Ipv4Addr::new(203, 0, 113, 7).into()), "an address for papers only");
    }
}
