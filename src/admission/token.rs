//! Tokens: secrets that are shown instead of an address. Compared in constant time, so that answers tell nothing of them.

use std::fmt;
use std::hint::black_box;

/// The shortest token: 16 characters of a random one cannot be guessed over a network.
const SHORTEST: usize = 16;

/// The tokens that admit.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Box<[u8]>>);

impl Tokens {
    /// Reads a file of tokens: one in a line, so that an old one may count while a new one is handed out. Empty lines and
    /// lines with `#` in front are skipped.
    ///
    /// # Errors
    /// A token that is too short, or none at all.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let tokens: Vec<Box<[u8]>> = lines.map(|line| line.as_bytes().into()).collect();
        if tokens.is_empty() {
            return Err("there is no token in it; write one, such as from `openssl rand -hex 32`".to_owned());
        }
        match tokens.iter().position(|token| token.len() < SHORTEST) {
            Some(at) => Err(format!("token {} is shorter than {SHORTEST} characters and could be guessed", at + 1)),
            None => Ok(Self(tokens)),
        }
    }

    /// Whether `shown` is one of them.
    #[must_use]
    pub fn admit(&self, shown: &[u8]) -> bool {
        // All are compared, whatever the first ones give.
        self.0.iter().fold(false, |admitted, token| admitted | same(token, shown))
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

/// Compares without stopping at the first difference. The length may be told.
fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let differs = one.iter().zip(other).fold(0_u8, |differs, (one, other)| black_box(differs | (one ^ other)));
    black_box(differs) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_tokens_admit() {
        let tokens = Tokens::parse("# old\n0123456789abcdef\n\n  fedcba9876543210  \n").unwrap();
        assert!(tokens.admit(b"0123456789abcdef") && tokens.admit(b"fedcba9876543210"));
        for shown in [&b""[..], b"0123456789abcde", b"0123456789abcdeF", b"0123456789abcdef0", b"# old"] {
            assert!(!tokens.admit(shown));
        }
        assert!(!Tokens::default().admit(b""));
        assert_eq!(format!("{tokens:?}"), "2 tokens");
        assert!(Tokens::parse("# nothing\n").is_err() && Tokens::parse("short").is_err());
    }
}
