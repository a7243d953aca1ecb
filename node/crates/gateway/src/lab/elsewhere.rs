//! The other name of a listener, which Ollama's client wants to be sent to.
//!
//! Pure. Ollama's client takes the bytes of a file only from an address whose host name is written otherwise than the
//! one that it asked, so each way of asking has another spelling of the same place. The answer differs from what was
//! asked for in its host name, always.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Bytes of a host name, the longest that names of hosts may have.
const NAME_BYTES_MAX: usize = 253;

/// A host, and a port where one is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    /// As it is written, without the brackets of IPv6.
    host: String,
    port: Option<u16>,
}

/// Where a listener is reached too, as `host:port`: first of all where the configuration says so, else by another
/// spelling of what the client asked, else where its connection came in.
pub(super) fn elsewhere(asked: &str, local: SocketAddr, advertise: &[Authority], tls: bool) -> String {
    let asked = asked.parse::<Authority>().ok();
    let host = asked.as_ref().map_or("", |asked| asked.host.as_str());
    let port = asked.as_ref().map_or(Some(local.port()), |asked| asked.port);
    let other = match advertise.iter().find(|other| other.host != host) {
        Some(other) => Authority { host: other.host.clone(), port: other.port.or(port) },
        None => match spelled_otherwise(host, tls) {
            Some(host) => Authority { host, port },
            None => Authority { host: local.ip().to_canonical().to_string(), port: Some(local.port()) },
        },
    };
    other.to_string()
}

/// Another spelling of a host that means the same wherever the client is.
fn spelled_otherwise(host: &str, tls: bool) -> Option<String> {
    match host.parse() {
        Ok(IpAddr::V4(address)) => Some(address.to_ipv6_mapped().to_string()),
        Ok(IpAddr::V6(address)) => Some(match address.to_ipv4_mapped() {
            Some(address) => address.to_string(),
            None => written_out(address, host),
        }),
        // A dot at the end says that the name is whole; TLS looks at it without.
        Err(_) if tls && is_whole(host) => Some(match host.strip_suffix('.') {
            Some(bare) => bare.to_owned(),
            None => format!("{host}."),
        }),
        Err(_) => None,
    }
}

/// All groups of an address in full; where it was asked for in just that way, the last two as IPv4 writes them.
fn written_out(address: Ipv6Addr, asked: &str) -> String {
    let full = address.segments().map(|segment| format!("{segment:04x}")).join(":");
    if full != asked {
        return full;
    }
    let [.., a, b, c, d] = address.octets();
    let front = full.rsplitn(3, ':').last().unwrap_or_default();
    format!("{front}:{a}.{b}.{c}.{d}")
}

/// A name that needs no search list: it has a dot inside.
fn is_whole(host: &str) -> bool {
    host.trim_end_matches('.').contains('.')
}

/// Letters, digits, dashes, underscores and dots, as names of hosts have them; dots neither first nor side by side.
fn is_name(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && text.bytes().all(is_known)
        && !text.starts_with('.')
        && !text.contains("..")
}

// === impl Authority ===

impl FromStr for Authority {
    type Err = ();

    /// `lab1`, `lab1.example:11438`, `10.0.0.1`, `[fd00::1]:11438`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port, is_known) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or(())?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(())?) };
            (host, port, host.parse::<Ipv6Addr>().is_ok())
        } else {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            (host, port, is_name(host))
        };
        if !is_known {
            return Err(());
        }
        let port = match port {
            None => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().map_err(drop)?),
            Some(_) => return Err(()),
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn local() -> SocketAddr {
        "192.168.1.5:11438".parse().expect("an address")
    }

    fn told(texts: &[&str]) -> Vec<Authority> {
        texts.iter().map(|text| text.parse().expect("an authority")).collect()
    }

    fn address_of(authority: &str) -> Option<IpAddr> {
        let host = authority.parse::<Authority>().ok()?.host;
        host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
    }

    #[test]
    fn each_way_of_asking_has_another_spelling() {
        let check = |asked: &str, tls: bool, expected: &str| {
            assert_eq!(elsewhere(asked, local(), &[], tls), expected, "{asked} {tls}");
        };
        for tls in [false, true] {
            check("10.1.2.3:11438", tls, "[::ffff:10.1.2.3]:11438");
            check("10.1.2.3", tls, "[::ffff:10.1.2.3]");
            check("[::ffff:10.1.2.3]:80", tls, "10.1.2.3:80");
            check("[::ffff:a01:203]:80", tls, "10.1.2.3:80");
            check("[::1]:11438", tls, "[0000:0000:0000:0000:0000:0000:0000:0001]:11438");
            check("[FD00::1]", tls, "[fd00:0000:0000:0000:0000:0000:0000:0001]");
            let full = "[1111:2222:3333:4444:5555:6666:7777:0088]:1";
            check(full, tls, "[1111:2222:3333:4444:5555:6666:119.119.0.136]:1");
            check("lab1:11438", tls, "192.168.1.5:11438");
            check("localhost:7", tls, "192.168.1.5:11438");
            check("", tls, "192.168.1.5:11438");
            for rubbish in ["unreadable..invalid", "a b", "lab.example:99999", "[::1", "[lab]", "a:b:c", "::1", "x@y.z"]
            {
                check(rubbish, tls, "192.168.1.5:11438");
            }
        }
        check("gpu.lab.example:11438", false, "192.168.1.5:11438");
        check("gpu.lab.example:11438", true, "gpu.lab.example.:11438");
        check("gpu.lab.example.:11438", true, "gpu.lab.example:11438");
        check("lab.", true, "192.168.1.5:11438");
    }

    #[test]
    fn where_a_connection_came_in_is_written_as_addresses_are() {
        let check = |local: &str, expected: &str| {
            assert_eq!(elsewhere("lab1:7", local.parse().expect("an address"), &[], false), expected, "{local}");
        };
        check("127.0.0.1:11438", "127.0.0.1:11438");
        check("[::ffff:10.0.0.7]:11438", "10.0.0.7:11438");
        check("[fd00::7]:11438", "[fd00::7]:11438");
        check("[fe80::7%2]:11438", "[fe80::7]:11438");
    }

    #[test]
    fn what_the_configuration_tells_goes_first() {
        let check = |advertise: &[&str], asked: &str, expected: &str| {
            assert_eq!(elsewhere(asked, local(), &told(advertise), false), expected, "{advertise:?} {asked}");
        };
        check(&["lab1.example"], "10.1.2.3:11438", "lab1.example:11438");
        check(&["lab1.example:443"], "10.1.2.3:11438", "lab1.example:443");
        check(&["lab1.example:443"], "10.1.2.3", "lab1.example:443");
        check(&["lab1.example"], "lab1.example:11438", "192.168.1.5:11438");
        check(&["lab1.example", "lab2.example"], "lab1.example:11438", "lab2.example:11438");
        check(&["[fd00::1]:7"], "lab1.example:11438", "[fd00::1]:7");
        check(&["lab1.example:443"], "rub bish", "lab1.example:443");
    }

    #[test]
    fn what_names_no_host_is_refused() {
        for text in ["", ":1", "https://lab1", "lab1/x", "lab1:", "lab1:x", "lab1:70000", ".lab", "a..b", "fd00::1"] {
            let refused = text.parse::<Authority>();
            assert_eq!(refused, Err(()), "{text:?}");
        }
        let name = "a".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(name.parse::<Authority>(), Err(()));
    }

    proptest! {
        #[test]
        fn an_address_is_sent_to_itself_under_another_name(bits: u128, narrow: bool, port: u16, tls: bool, full: bool) {
            let address = Ipv6Addr::from(if narrow { (bits >> 96) | 0xffff_0000_0000 } else { bits });
            let written = if full { written_out(address, "") } else { address.to_string() };
            let asked = format!("[{written}]:{port}");
            let other = elsewhere(&asked, local(), &[], tls);
            prop_assert_eq!(address_of(&other), Some(IpAddr::V6(address).to_canonical()));
            let hosts = [&asked, &other].map(|text| text.parse::<Authority>().map(|authority| authority.host));
            prop_assert_ne!(&hosts[0], &hosts[1]);
            let again = elsewhere(&other, local(), &[], tls);
            prop_assert_eq!(address_of(&again), address_of(&other));
        }
    }
}
