//! A small seeded generator (SplitMix64; Steele, Lea, Flood, OOPSLA 2014): the same seed replays the same
//! power cut and the same load, on every machine and with every version of every library.

/// A stream of pseudo-random numbers, fully determined by its seed.
#[derive(Clone, Debug)]
pub struct Seed(u64);

impl Seed {
    /// A stream that starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// An independent stream for one purpose (`label`) under the same seed.
    pub fn fork(&self, label: u64) -> Self {
        let mut child = Self(self.0 ^ label.wrapping_mul(0xa076_1d64_78bd_642f));
        child.draw();
        child
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound` (0 when `bound` is 0). The bias is far below what a test could notice.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.draw() % bound }
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True once in `n` draws, on average.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Fills `out` with the stream's bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.draw().to_le_bytes();
            for (to, from) in chunk.iter_mut().zip(bytes) {
                *to = from;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Seed;

    #[test]
    fn the_same_seed_gives_the_same_stream_and_forks_differ() {
        let (mut a, mut b) = (Seed::new(7), Seed::new(7));
        let left: Vec<u64> = (0..32).map(|_| a.draw()).collect();
        let right: Vec<u64> = (0..32).map(|_| b.draw()).collect();
        assert_eq!(left, right);
        assert_ne!(Seed::new(7).fork(1).draw(), Seed::new(7).fork(2).draw());
    }

    #[test]
    fn between_stays_within_its_bounds() {
        let mut seed = Seed::new(1);
        for _ in 0..1000 {
            let n = seed.between(50, 60);
            assert!((50..=60).contains(&n));
        }
        assert_eq!(seed.between(5, 5), 5);
    }
}
