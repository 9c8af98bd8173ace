//! What the load generator writes into each record, so that reading back can tell every byte.
//!
//! A value begins with who wrote it and which of its records it is; what follows is a
//! pseudo-random sequence of that and the run's seed. Nothing has to be remembered of it.

/// Bytes of a value before the pseudo-random part; no value is shorter.
pub const VALUE_BYTES_MIN: usize = 28;

/// Which record a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The run's seed: tells records of different runs apart.
    pub seed: u64,
    /// The generator's number of the producer, from 0.
    pub producer: u32,
    /// The partition it was sent to.
    pub partition: i32,
    /// The producer's request, from 0.
    pub request: u32,
    /// The record's place in its batch, from 0.
    pub place: u32,
}

impl Mark {
    /// Writes the whole value.
    pub fn write(&self, value: &mut [u8]) {
        let Some((head, rest)) = value.split_first_chunk_mut::<VALUE_BYTES_MIN>() else { return };
        *head = self.head();
        let mut state = self.state();
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&next(&mut state).to_le_bytes());
        }
        let last = words.into_remainder();
        last.copy_from_slice(&next(&mut state).to_le_bytes()[..last.len()]);
    }

    /// The mark a value carries; `None` when it is too short to be one of ours.
    pub fn read(value: &[u8]) -> Option<Self> {
        let head = value.first_chunk::<VALUE_BYTES_MIN>()?;
        let word = |at: usize| [head[at], head[at + 1], head[at + 2], head[at + 3]];
        Some(Self {
            seed: u64::from_le_bytes(*head.first_chunk()?),
            producer: u32::from_le_bytes(word(8)),
            partition: i32::from_le_bytes(word(12)),
            request: u32::from_le_bytes(word(16)),
            place: u32::from_le_bytes(word(20)),
        })
        .filter(|mark| mark.head() == *head)
    }

    /// Whether `value` has every byte that [`write`](Self::write) would give it.
    pub fn matches(&self, value: &[u8]) -> bool {
        let Some((head, rest)) = value.split_first_chunk::<VALUE_BYTES_MIN>() else { return false };
        let mut state = self.state();
        let mut words = rest.chunks_exact(8);
        *head == self.head()
            && words.by_ref().all(|word| word == next(&mut state).to_le_bytes())
            && next(&mut state).to_le_bytes().starts_with(words.remainder())
    }

    fn head(&self) -> [u8; VALUE_BYTES_MIN] {
        let mut head = [0; VALUE_BYTES_MIN];
        head[..8].copy_from_slice(&self.seed.to_le_bytes());
        head[8..12].copy_from_slice(&self.producer.to_le_bytes());
        head[12..16].copy_from_slice(&self.partition.to_le_bytes());
        head[16..20].copy_from_slice(&self.request.to_le_bytes());
        head[20..24].copy_from_slice(&self.place.to_le_bytes());
        // A check of the mark itself, so that foreign bytes are not taken for one.
        let mut state = self.state();
        head[24..].copy_from_slice(&(next(&mut state) as u32).to_le_bytes());
        head
    }

    fn state(&self) -> u64 {
        let who = u64::from(self.producer) << 32 | u64::from(self.partition as u32);
        let which = u64::from(self.request) << 32 | u64::from(self.place);
        let mut state = self.seed ^ who.rotate_left(17);
        next(&mut state) ^ which
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): two multiplications per eight bytes.
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { seed: 9, producer: 127, partition: 2, request: 70_000, place: 3 };

    #[test]
    fn a_value_tells_whose_it_is_and_whether_it_is_whole() {
        for bytes in [28, 29, 36, 100, 256] {
            let mut value = vec![0; bytes];
            MARK.write(&mut value);
            assert_eq!(Mark::read(&value), Some(MARK));
            assert!(MARK.matches(&value));
            for at in 0..bytes {
                value[at] ^= 0x10;
                assert!(!MARK.matches(&value), "byte {at} of {bytes} changed");
                value[at] ^= 0x10;
            }
        }
    }

    #[test]
    fn neighbours_differ_and_foreign_bytes_are_not_ours() {
        let mut one = vec![0; 64];
        let mut two = vec![0; 64];
        MARK.write(&mut one);
        Mark { place: 4, ..MARK }.write(&mut two);
        assert_ne!(one[28..], two[28..]);
        assert_eq!(Mark::read(&[7; 64]), None);
        assert_eq!(Mark::read(&one[..27]), None);
    }
}
