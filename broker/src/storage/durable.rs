//! Small files that are replaced as a whole, durably.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::wal::files::sync_dir;

/// Replaces `dir/name` with `bytes`: whoever reads it later, after whatever crash, finds the old bytes or the
/// new ones.
pub fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let tmp = dir.join(format!("{name}.tmp"));
    let mut file = File::create(&tmp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&tmp, dir.join(name))?;
    sync_dir(dir)
}

/// The bytes of `dir/name`, `None` if there is no such file.
pub fn read(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
