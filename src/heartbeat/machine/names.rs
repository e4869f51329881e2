//! Who takes part, and the numbers they count by: parsed once, then trusted.

use std::fmt;

/// Most voters that one pair can have: two members and seven witnesses. More would make every heartbeat larger, and a
/// majority of nine already outlives four failures.
pub const VOTERS_MAX: usize = 9;

/// Members of a pair.
pub const MEMBERS: usize = 2;

/// Most links between two voters.
pub const LINKS_MAX: usize = 4;

/// The name of a voter, as in the configuration: 1 to 63 of `a-z`, `0-9`, `-` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

/// The name of a pair: 1 to 32 visible ASCII characters. Part of what is authenticated, so two pairs on one network that
/// share a key by mistake do not hear each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClusterName([u8; 32]);

/// A voter, by its place in the [`Roster`]: 0 and 1 are the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u8);

/// A link between two voters, by its place in their configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u8);

/// One acquisition of the active role. Strictly growing; 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// A random number that a process draws when it starts; never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BootId(pub u64);

/// The configured voters, in one order on all of them whatever the order of the file: members by name, then witnesses by
/// name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    names: Vec<NodeName>,
    digest: u64,
}

/// Why names make no pair.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not a node's name.
    #[error("`{0}` is no node name; write 1 to 63 of a-z, 0-9, `-` and `.`")]
    Node(String),
    /// Not a cluster's name.
    #[error("`{0}` is no cluster name; write 1 to 32 visible ASCII characters")]
    Cluster(String),
    /// One name for two voters.
    #[error("`{0}` is named twice among members and witnesses; each voter has a name of its own")]
    Twice(String),
    /// Too many of them.
    #[error("{0} witnesses; a pair can have {max} at most, and one or three are enough", max = VOTERS_MAX - MEMBERS)]
    TooMany(usize),
}

impl NodeName {
    /// Reads a name.
    ///
    /// # Errors
    /// When it is empty, too long, or has other characters than a host name in lower case.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
        let fits = (1..=63).contains(&text.len()) && text.bytes().all(good);
        if fits { Ok(Self(text.to_owned())) } else { Err(BadName::Node(text.to_owned())) }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClusterName {
    /// Reads a name.
    ///
    /// # Errors
    /// When it is empty, too long, or not visible ASCII.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let fits = (1..=32).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic());
        if !fits {
            return Err(BadName::Cluster(text.to_owned()));
        }
        let mut name = [0; 32];
        name[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(name))
    }

    /// As it stands in a datagram, padded with zeros.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl NodeId {
    /// Whether it is one of the two that have the storage.
    #[must_use]
    pub fn is_member(self) -> bool {
        usize::from(self.0) < MEMBERS
    }

    /// The other member.
    #[must_use]
    pub fn peer(self) -> Self {
        Self(self.0 ^ 1)
    }

    pub(crate) fn at(self) -> usize {
        usize::from(self.0)
    }
}

impl Epoch {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before it, or 0.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl Roster {
    /// Puts the voters in their order.
    ///
    /// # Errors
    /// When a name is there twice, or there are too many.
    pub fn new(mut members: [NodeName; MEMBERS], mut witnesses: Vec<NodeName>) -> Result<Self, BadName> {
        if witnesses.len() > VOTERS_MAX - MEMBERS {
            return Err(BadName::TooMany(witnesses.len()));
        }
        members.sort();
        witnesses.sort();
        let names: Vec<NodeName> = members.into_iter().chain(witnesses).collect();
        for (place, name) in names.iter().enumerate() {
            if names[..place].contains(name) {
                return Err(BadName::Twice(name.0.clone()));
            }
        }
        let digest = names.iter().fold(0xcbf2_9ce4_8422_2325, |hash, name| {
            let bytes = name.0.bytes().chain([0]);
            bytes.fold(hash, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        });
        Ok(Self { names, digest })
    }

    /// How many vote.
    #[must_use]
    pub fn voters(&self) -> usize {
        self.names.len()
    }

    /// How many votes are a majority of the configured voters. Without a witness there is no majority that could outlive a
    /// member, so one vote is enough and only a fence, a release or an operator can prove a takeover.
    #[must_use]
    pub fn quorum(&self) -> usize {
        if self.has_witness() { self.names.len() / 2 + 1 } else { 1 }
    }

    /// Whether there is a third voice.
    #[must_use]
    pub fn has_witness(&self) -> bool {
        self.names.len() > MEMBERS
    }

    /// Everybody, in order.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..u8::MAX).take(self.names.len()).map(NodeId)
    }

    /// Whose place it is.
    #[must_use]
    pub fn name(&self, id: NodeId) -> Option<&NodeName> {
        self.names.get(id.at())
    }

    /// Where somebody stands.
    #[must_use]
    pub fn find(&self, name: &NodeName) -> Option<NodeId> {
        self.ids().find(|id| self.name(*id) == Some(name))
    }

    /// A number that differs where the rosters differ: heartbeats of a voter that has other names configured are dropped,
    /// for its majority would be another one.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).expect("a name")
    }

    #[test]
    fn the_order_of_the_file_makes_no_difference() {
        let one = Roster::new([name("zeo-b"), name("zeo-a")], vec![name("edge-2"), name("edge-1")]).expect("good");
        let other = Roster::new([name("zeo-a"), name("zeo-b")], vec![name("edge-1"), name("edge-2")]).expect("good");
        assert_eq!(one, other);
        assert_eq!(one.find(&name("zeo-a")), Some(NodeId(0)));
        assert_eq!(one.find(&name("edge-2")), Some(NodeId(3)));
        assert_eq!((one.voters(), one.quorum()), (4, 3));
    }

    #[test]
    fn rosters_that_differ_have_different_digests() {
        let digest = |members: [&str; 2], witnesses: &[&str]| {
            let witnesses = witnesses.iter().copied().map(name).collect();
            Roster::new(members.map(name), witnesses).expect("good").digest()
        };
        let one = digest(["a", "b"], &["c"]);
        assert_ne!(one, digest(["a", "c"], &["b"]));
        assert_ne!(one, digest(["a", "b"], &["c", "d"]));
        assert_ne!(one, digest(["a", "b"], &[]));
        assert_ne!(digest(["ab", "c"], &[]), digest(["a", "bc"], &[]));
    }

    #[test]
    fn a_name_stands_once_and_is_a_host_name() {
        assert_eq!(Roster::new([name("a"), name("b")], vec![name("a")]), Err(BadName::Twice("a".into())));
        assert!(NodeName::parse("Zeo").is_err() && NodeName::parse("").is_err());
        assert!(ClusterName::parse("two words").is_err() && ClusterName::parse(&"x".repeat(33)).is_err());
    }
}
