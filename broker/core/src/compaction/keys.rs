//! The newest offset of every key of a stretch of a log, in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use crate::ids::Offset;

/// A key by 128 bits of its hash. Two keys that share them would be taken for one: with a billion keys the chance of any
/// such pair is under 10^-20.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint(u64, u64);

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// A fingerprint is a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Bytes that one key takes, with what the table keeps free.
const BYTES_PER_KEY: usize = 48;

/// See the module's documentation.
pub struct KeyOffsets {
    offsets: HashMap<Fingerprint, Offset, BuildHasherDefault<AsItIs>>,
    keys_max: usize,
    /// Nobody who writes records knows it, so nobody can make keys that collide.
    seed: u64,
}

impl KeyOffsets {
    /// Room for as many keys as `bytes_max` hold (`log.cleaner.dedupe.buffer.size`), and for one at least.
    pub fn new(bytes_max: usize, seed: u64) -> KeyOffsets {
        KeyOffsets { offsets: HashMap::default(), keys_max: (bytes_max / BYTES_PER_KEY).max(1), seed }
    }

    fn fingerprint(&self, key: &[u8]) -> Fingerprint {
        let half = |n: u64| {
            let mut hasher = DefaultHasher::new();
            (self.seed, n).hash(&mut hasher);
            hasher.write(key);
            hasher.finish()
        };
        Fingerprint(half(0), half(1))
    }

    /// Notes that `key` was written at `offset`. False when there is no room for another key.
    pub fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let full = self.offsets.len() >= self.keys_max;
        let fingerprint = self.fingerprint(key);
        match self.offsets.get_mut(&fingerprint) {
            Some(latest) => *latest = offset.max(*latest),
            None if full => return false,
            None => _ = self.offsets.insert(fingerprint, offset),
        }
        true
    }

    /// The newest offset of `key`, if it was noted.
    pub fn latest(&self, key: &[u8]) -> Option<Offset> {
        self.offsets.get(&self.fingerprint(key)).copied()
    }

    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_offset_counts_and_room_is_bounded() {
        let mut keys = KeyOffsets::new(2 * BYTES_PER_KEY, 7);
        assert!(keys.put(b"a", 1) && keys.put(b"b", 2));
        assert!(!keys.put(b"c", 3), "full");
        assert!(keys.put(b"a", 4) && keys.put(b"b", 1), "known keys find their place");
        assert_eq!([b"a", b"b", b"c"].map(|key| keys.latest(key)), [Some(4), Some(2), None]);
        assert_eq!((keys.len(), keys.is_empty()), (2, false));
    }
}
