//! Networks, and whether an address lies in one.
//!
//! Pure. An IPv4 address is the same however it is written: a listener of both families shows it as `::ffff:a.b.c.d`.
//! A network whose address goes on behind its mask is refused, since somebody meant another one.

use std::net::IpAddr;
use std::str::FromStr;

/// Bits of an IPv6 address in front of an IPv4 one.
const MAPPED_BITS: u8 = 96;

/// The addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    bits: u8,
}

// === impl Network ===

impl Network {
    /// Whether this address is one of them.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => begins_alike(wide(own.into()), wide(other.into()), self.bits),
            (IpAddr::V6(own), IpAddr::V6(other)) => begins_alike(own.into(), other.into(), self.bits),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = ();

    /// `192.168.0.0/16`, `fd00::/8`; a lone address is a network of one.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(drop)?;
        let bits_max: u8 = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => bits_max,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().map_err(drop)?,
            Some(_) => return Err(()),
        };
        let number = match address {
            IpAddr::V4(address) => wide(address.into()),
            IpAddr::V6(address) => address.into(),
        };
        if bits > bits_max || !ends_with_zeros(number, bits) {
            return Err(());
        }
        let canonical = address.to_canonical();
        let is_mapped = canonical.is_ipv4() && address.is_ipv6();
        Ok(Self { address: canonical, bits: if is_mapped { bits - MAPPED_BITS } else { bits } })
    }
}

/// The number of an IPv4 address where the first bits of an IPv6 one stand.
fn wide(number: u32) -> u128 {
    u128::from(number) << MAPPED_BITS
}

fn begins_alike(own: u128, other: u128, bits: u8) -> bool {
    bits == 0 || (own ^ other) >> (128 - u32::from(bits)) == 0
}

/// Whether nothing stands behind so many bits.
fn ends_with_zeros(number: u128, bits: u8) -> bool {
    number.checked_shl(bits.into()).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_in_a_network_however_it_is_written() {
        let check = |network: &str, address: &str, expected: bool| {
            let network: Network = network.parse().expect("a network");
            assert_eq!(network.has(address.parse().expect("an address")), expected, "{network:?} {address}");
        };
        check("192.168.0.0/16", "192.168.255.1", true);
        check("192.168.0.0/16", "192.169.0.1", false);
        check("192.168.0.0/16", "::ffff:192.168.7.7", true);
        check("::ffff:192.168.0.0/112", "192.168.7.7", true);
        check("::ffff:192.168.0.0/112", "192.169.7.7", false);
        check("10.1.2.3", "10.1.2.3", true);
        check("10.1.2.3", "10.1.2.2", false);
        check("10.1.2.2/31", "10.1.2.3", true);
        check("0.0.0.0/0", "8.8.8.8", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("::/0", "2001:db8::1", true);
        check("::/0", "8.8.8.8", false);
        check("::1", "::1", true);
        check("::1/128", "::2", false);
        check("fc00::/7", "fdff::1", true);
        check("fc00::/7", "fe00::1", false);
        check("fe80::/10", "febf::1", true);
        check("fe80::/10", "10.0.0.1", false);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0.1/8",
            "10.0.0/8",
            "010.0.0.0/8",
            "::/129",
            "fd00::1/8",
            "::ffff:10.0.0.0/90",
            "::ffff:10.0.0.1/104",
            "lab.example/8",
            "10.0.0.0/256",
            " 10.0.0.0/8",
        ] {
            assert_eq!(text.parse::<Network>(), Err(()), "{text:?}");
        }
    }
}
