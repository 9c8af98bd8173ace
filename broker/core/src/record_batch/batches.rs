//! Batches that lie one behind the other.

use std::ops::Range;

use super::check::check_crc;
use super::error::BatchError;
use super::header::BatchHeader;

/// Whether to look at each batch's checksum. Bytes that a checksum has covered already need it not again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crc {
    Check,
    Skip,
}

/// Yields each batch's header and where in `bytes` the batch lies.
///
/// Ends after the first error: `Truncated` is a last batch cut short, as a fetch or a file may end in; every
/// other is damage. [`Batches::position`] then says how far the whole batches reach.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    bytes: &'a [u8],
    crc: Crc,
    position: usize,
    ended: bool,
}

impl<'a> Batches<'a> {
    pub fn new(bytes: &'a [u8], crc: Crc) -> Batches<'a> {
        Batches { bytes, crc, position: 0, ended: false }
    }

    /// Bytes of the whole batches seen so far.
    pub fn position(&self) -> usize {
        self.position
    }

    fn read(&self, rest: &[u8]) -> Result<(BatchHeader, Range<usize>), BatchError> {
        let header = BatchHeader::parse(rest)?;
        let want = header.size_in_bytes();
        if rest.len() < want {
            return Err(BatchError::Truncated { have: rest.len(), want });
        }
        if self.crc == Crc::Check {
            check_crc(&header, rest)?;
        }
        Ok((header, self.position..self.position + want))
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<(BatchHeader, Range<usize>), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.position..).filter(|rest| !self.ended && !rest.is_empty())?;
        let batch = self.read(rest);
        match &batch {
            Ok((_, range)) => self.position = range.end,
            Err(_) => self.ended = true,
        }
        Some(batch)
    }
}
