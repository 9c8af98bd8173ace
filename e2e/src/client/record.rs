//! What records are made of: everything follows from the run's name and the record's number, so that nothing of
//! their bytes has to be remembered.

/// Makes the records of one run.
#[derive(Clone, Debug)]
pub struct Maker {
    run: String,
    value_bytes: usize,
}

impl Maker {
    /// `run` tells this run's records from all others in a topic; values have `value_bytes` on average.
    pub fn new(run: &str, value_bytes: usize) -> Maker {
        Maker { run: run.to_owned(), value_bytes }
    }

    /// Unique: how a record is recognised when a retry wrote it twice.
    pub fn key(&self, number: u64) -> String {
        format!("{}/{number}", self.run)
    }

    /// Half to one and a half times the average length, of bytes that no compression or mix-up leaves alike.
    pub fn value(&self, number: u64) -> Vec<u8> {
        let mut state = seed(&self.run) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let length = self.value_bytes / 2 + (next(&mut state) as usize) % self.value_bytes.max(1);
        let mut value = Vec::with_capacity(length + 8);
        while value.len() < length {
            value.extend_from_slice(&next(&mut state).to_le_bytes());
        }
        value.truncate(length);
        value
    }

    /// The number of a record of this run, by its key.
    pub fn number(&self, key: &[u8]) -> Option<u64> {
        let number = key.strip_prefix(self.run.as_bytes())?.strip_prefix(b"/")?;
        std::str::from_utf8(number).ok()?.parse().ok()
    }
}

/// FNV-1a.
fn seed(run: &str) -> u64 {
    run.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_recognised_by_its_run_alone() {
        let maker = Maker::new("run-1", 100);
        assert_eq!(maker.number(maker.key(4711).as_bytes()), Some(4711));
        assert_eq!(maker.number(b"run-11/5"), None);
        assert_eq!(maker.number(b"run-1/"), None);
        assert_eq!(maker.number(b"run-2/5"), None);
    }

    #[test]
    fn values_are_the_same_each_time_and_differ_by_number_and_run() {
        let maker = Maker::new("a", 100);
        assert_eq!(maker.value(7), maker.value(7));
        assert_ne!(maker.value(7), maker.value(8));
        assert_ne!(maker.value(7), Maker::new("b", 100).value(7));
        for number in 0..1000 {
            assert!((50..150).contains(&maker.value(number).len()));
        }
    }
}
