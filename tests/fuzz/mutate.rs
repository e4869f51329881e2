//! Bytes that are almost right: a seed of the corpus, changed a few times. The same seed gives the same bytes.

/// A source of choices (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.roll() % most.max(1) as u64).unwrap_or(0)
    }

    pub fn choice<'t, T: ?Sized>(&mut self, all: &[&'t T]) -> &'t T {
        all[self.below(all.len())]
    }
}

/// One of `corpus`, changed; `words` are put in here and there.
pub fn mutate(dice: &mut Dice, corpus: &[&[u8]], words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = dice.choice(corpus).to_vec();
    for _ in 0..=dice.below(6) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(dice.below(256)).unwrap_or(0),
            2 => drop(bytes.drain(at..(at + dice.below(12)).min(bytes.len()))),
            3 => {
                let end = (at + dice.below(40)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let other = dice.choice(corpus);
                let from = dice.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let word = dice.choice(words);
                bytes.splice(at..at, word.iter().copied());
            }
        }
    }
    bytes
}

/// `FUZZ_ROUNDS` and `FUZZ_SEED`, or what suits a test run.
pub fn rounds(usual: u64) -> (u64, u64) {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    (number("FUZZ_ROUNDS", usual), number("FUZZ_SEED", 1))
}
