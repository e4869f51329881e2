//! Lists of networks: short ones as they stand in the configuration, long ones from files.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::collections::HashSet;
use std::net::IpAddr;

/// The most networks of one list; each takes about 10 bytes of IPv4, 30 of IPv6.
pub const NETWORKS_MAX: usize = 2_000_000;

/// Whether one of `networks` contains `address`; an IPv4-mapped IPv6 address counts as its IPv4 address.
#[must_use]
pub fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Many networks. A look-up costs one hash for each length of prefix that occurs, however many networks there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: BTreeMap<u8, HashSet<u32>>,
    v6: BTreeMap<u8, HashSet<u128>>,
}

/// A line of a list that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadList {
    /// It cannot be read.
    #[error(
        "line {line}: `{text}` is no network; write one in a line, like `10.0.0.0/8`, `192.0.2.1` or `2001:db8::/32`"
    )]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// What stands there, at most 100 characters of it.
        text: String,
    },
    /// There are too many.
    #[error("more than {NETWORKS_MAX} networks")]
    TooLong,
}

impl Networks {
    /// Adds the networks of a text: one in each line, with what follows `#` left out.
    ///
    /// # Errors
    /// The first line that is no network, or that there are too many.
    pub fn read(&mut self, text: &str) -> Result<(), BadList> {
        let mut count = 0;
        for (at, line) in text.lines().enumerate() {
            let written = line.split('#').next().unwrap_or_default().trim();
            if written.is_empty() {
                continue;
            }
            count += 1;
            if count > NETWORKS_MAX {
                return Err(BadList::TooLong);
            }
            let network = written.parse().or_else(|_| written.parse::<IpAddr>().map(IpNet::from));
            let text = || written.chars().take(100).collect();
            self.add(network.map_err(|_| BadList::Line { line: at + 1, text: text() })?);
        }
        Ok(())
    }

    /// Adds one.
    pub fn add(&mut self, network: IpNet) {
        match network.trunc() {
            IpNet::V4(v4) => self.v4.entry(v4.prefix_len()).or_default().insert(v4.network().to_bits()),
            IpNet::V6(v6) => self.v6.entry(v6.prefix_len()).or_default().insert(v6.network().to_bits()),
        };
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether one of them contains `address`; an IPv4-mapped IPv6 address counts as its IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.v4.iter().any(|(bits, networks)| {
                networks.contains(&(v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0)))
            }),
            IpAddr::V6(v6) => self.v6.iter().any(|(bits, networks)| {
                networks.contains(&(v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(*bits)).unwrap_or(0)))
            }),
        }
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let mut list = Self::default();
        networks.into_iter().for_each(|network| list.add(network));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mapped_addresses_are_judged_as_ipv4() {
        let networks: Vec<IpNet> = ["10.0.0.0/8", "2001:db8::/32"].iter().map(|net| net.parse().unwrap()).collect();
        let list: Networks = networks.iter().copied().collect();
        for (address, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("2001:db8::9", true),
            ("2001:db9::9", false),
        ] {
            assert_eq!(contains(&networks, address.parse().unwrap()), expected, "{address}");
            assert_eq!(list.contains(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_file_may_have_comments_and_bad_lines_are_named() {
        let mut list = Networks::default();
        list.read("# bad people\n192.0.2.7 # one\n\n198.51.100.9/24\r\n::/0\n").unwrap();
        assert!(list.contains("192.0.2.7".parse().unwrap()) && !list.contains("192.0.2.8".parse().unwrap()));
        assert!(list.contains("198.51.100.200".parse().unwrap()) && list.contains("2001:db8::1".parse().unwrap()));
        let bad = list.read("10.0.0.1\n10.0.0.0/33\n").unwrap_err().to_string();
        assert!(bad.starts_with("line 2: `10.0.0.0/33` is no network"), "{bad}");
    }

    proptest! {
        #[test]
        fn a_long_list_says_what_its_networks_say(
            networks in prop::collection::vec((any::<IpAddr>(), 0_u8..=128), 0..20),
            address: IpAddr,
        ) {
            let networks: Vec<IpNet> = networks
                .into_iter()
                .filter_map(|(address, bits)| IpNet::new(address.to_canonical(), bits % if address.to_canonical().is_ipv4() { 33 } else { 129 }).ok())
                .collect();
            let list: Networks = networks.iter().copied().collect();
            prop_assert_eq!(list.contains(address), contains(&networks, address));
        }

        #[test]
        fn any_text_is_a_list_or_an_error(text: String) {
            let _ = Networks::default().read(&text);
        }
    }
}
