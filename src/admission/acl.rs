//! Lists of networks.

use ipnet::IpNet;
use std::net::IpAddr;

/// Whether one of `networks` contains `address`; an IPv4-mapped IPv6 address counts as its IPv4 address.
#[must_use]
pub fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_judged_as_ipv4() {
        let networks: Vec<IpNet> = ["10.0.0.0/8", "2001:db8::/32"].iter().map(|net| net.parse().unwrap()).collect();
        for (address, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("2001:db8::9", true),
            ("2001:db9::9", false),
        ] {
            assert_eq!(contains(&networks, address.parse().unwrap()), expected, "{address}");
        }
    }
}
