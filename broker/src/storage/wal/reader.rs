//! Reads of the log by position: what is durable, not in a segment yet, and no longer in memory.

use std::io;
use std::path::Path;

use bytes::Bytes;
use chronik_core::ids::WalPosition;

use super::{Shared, files};

/// `len` bytes at `position`; `None` when the file has been recycled (the bytes are in a segment then). The
/// caller checks what it reads as it would anything from a disk.
pub(super) fn read(
    dir: &Path,
    shared: &Shared,
    position: WalPosition,
    len: usize,
) -> io::Result<Option<Bytes>> {
    let Some((slot, place)) = shared.pool().locate(position) else { return Ok(None) };
    let file = shared.open_to_read(dir, slot)?;
    let (buf, lead) = files::read_aligned(&file, place, len)?;
    // Recycled while it was read?
    if shared.pool().locate(position) != Some((slot, place)) {
        return Ok(None);
    }
    Ok(Some(buf.into_bytes().slice(lead..lead + len)))
}
