//! Reproducible pseudo-random numbers: one seed gives the same numbers in the same order on every
//! machine. Not for secrets of the real world.

/// The increment of SplitMix64.
pub(crate) const SPLITMIX64_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// A SplitMix64 generator.
#[derive(Debug)]
pub(crate) struct SeededRng {
    state: u64,
}

impl SeededRng {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(SPLITMIX64_GAMMA);
        splitmix64_finalize(self.state)
    }

    /// Random text of lower-case letters and digits, without those that are easily confused.
    pub(crate) fn text(&mut self, characters: usize) -> String {
        const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        let mut text = String::with_capacity(characters);
        while text.len() < characters {
            let mut bits = self.next();
            for _ in 0..12.min(characters - text.len()) {
                let letter = ALPHABET.get((bits % 32) as usize).copied().unwrap_or(b'a');
                text.push(char::from(letter));
                bits >>= 5;
            }
        }
        text
    }
}

/// The output function of SplitMix64: similar inputs give unrelated outputs.
pub(crate) fn splitmix64_finalize(state: u64) -> u64 {
    let mut bits = state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}
