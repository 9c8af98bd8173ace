//! The records that producers send. Each is made from the run's seed, its producer and its number, and names both.

use super::batch::Record;
use super::load::KINDS;
use crate::seed::Seed;

/// Keys that producers of compacted topics write to.
const KEYS: u64 = 40;
/// The header that names a keyed record, since a tombstone has no value to hold its name.
const NAME: &[u8] = b"name";

/// A record by its producer and its number.
pub type Id = (usize, u64);

/// The record that a producer sends under a number: its name in the first 12 bytes (in a header, if it is keyed), then
/// seeded bytes.
pub fn record_for(seed: u64, producer: usize, record: u64) -> Record {
    let mut bytes = bytes_of(seed, producer, record);
    let mut name = Vec::with_capacity(12);
    name.extend((producer as u32).to_le_bytes());
    name.extend(record.to_le_bytes());
    if is_keyed(producer) {
        let (key, is_tombstone) = keyed(&mut bytes);
        let value = (!is_tombstone).then(|| filled(&mut bytes, Vec::new()));
        // The same name twice, and one without a value: headers are a list, and stay as they are.
        let headers = vec![(NAME.to_vec(), name), (NAME.to_vec(), Vec::new())];
        return Record { key: Some(key), value, headers };
    }
    let key = bytes.one_in(3).then(|| record.to_le_bytes().to_vec());
    Record { key, value: Some(filled(&mut bytes, name)), headers: Vec::new() }
}

/// A record that is its value.
pub fn plain_record(value: Vec<u8>) -> Record {
    Record { key: None, value: Some(value), headers: Vec::new() }
}

/// The key of a keyed record, and whether it is a tombstone.
pub fn key_of(seed: u64, producer: usize, record: u64) -> (Vec<u8>, bool) {
    keyed(&mut bytes_of(seed, producer, record))
}

/// Whose record it says it is.
pub fn identify(record: &Record) -> Option<Id> {
    let name = match record.headers.first() {
        Some((_, name)) => name,
        None => record.value.as_ref()?,
    };
    let (producer, rest) = name.split_first_chunk::<4>()?;
    let number = rest.first_chunk::<8>()?;
    Some((u32::from_le_bytes(*producer) as usize, u64::from_le_bytes(*number)))
}

fn is_keyed(producer: usize) -> bool {
    KINDS.get(producer).is_some_and(|kind| kind.is_keyed())
}

fn bytes_of(seed: u64, producer: usize, record: u64) -> Seed {
    Seed::new(seed).fork(((producer as u64) << 40) ^ record)
}

fn keyed(bytes: &mut Seed) -> (Vec<u8>, bool) {
    (format!("key-{}", bytes.below(KEYS)).into_bytes(), bytes.one_in(6))
}

fn filled(bytes: &mut Seed, mut value: Vec<u8>) -> Vec<u8> {
    let from = value.len();
    // Mostly small, now and then larger than a block.
    let filler = if bytes.one_in(50) { bytes.between(4_000, 12_000) } else { bytes.between(0, 250) };
    value.resize(from + filler as usize, 0);
    bytes.fill(&mut value[from..]);
    value
}
