//! The small files beside a log: a version, a CRC32C, big-endian fields.

use thiserror::Error;

/// Why a snapshot is not used. The state is then rebuilt from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    #[error("snapshot version {0} is not known")]
    Version(u16),
    #[error("the snapshot does not match its checksum")]
    Checksum,
    #[error("the snapshot is cut short, too long, or contradicts itself")]
    Malformed,
}

/// Writes `version, crc, body`; the checksum covers version and body.
pub(super) struct Writer(Vec<u8>);

const BODY_AT: usize = 6;

impl Writer {
    pub fn new(version: u16) -> Writer {
        let mut bytes = version.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        Writer(bytes)
    }

    pub fn put<const N: usize>(&mut self, field: [u8; N]) {
        self.0.extend_from_slice(&field);
    }

    pub fn seal(mut self) -> Vec<u8> {
        let crc = checksum(&self.0[..2], &self.0[BODY_AT..]);
        self.0[2..BODY_AT].copy_from_slice(&crc.to_be_bytes());
        self.0
    }
}

/// Reads what a [`Writer`] sealed.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The version, which is `newest` or older, and what follows.
    pub fn open(bytes: &'a [u8], newest: u16) -> Result<(u16, Reader<'a>), SnapshotError> {
        let (head, rest) = bytes.split_first_chunk::<2>().ok_or(SnapshotError::Malformed)?;
        let (crc, body) = rest.split_first_chunk::<4>().ok_or(SnapshotError::Malformed)?;
        if u32::from_be_bytes(*crc) != checksum(head, body) {
            return Err(SnapshotError::Checksum);
        }
        match u16::from_be_bytes(*head) {
            found if (1..=newest).contains(&found) => Ok((found, Reader(body))),
            other => Err(SnapshotError::Version(other)),
        }
    }

    pub fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(SnapshotError::Malformed)?;
        self.0 = rest;
        Ok(*field)
    }

    pub fn u8(&mut self) -> Result<u8, SnapshotError> {
        self.take().map(u8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, SnapshotError> {
        self.take().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, SnapshotError> {
        self.take().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, SnapshotError> {
        self.take().map(i64::from_be_bytes)
    }

    /// Nothing may be left over.
    pub fn end(&self) -> Result<(), SnapshotError> {
        if self.0.is_empty() { Ok(()) } else { Err(SnapshotError::Malformed) }
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), body)
}
