//! Small files that are replaced as a whole, durably.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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

/// The same, on a disk that may be full: without space, the room that was [set aside](set_aside) is used. What is deleted
/// must be written down first, so nothing could be deleted otherwise.
pub fn replace_on_full_disk(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    match replace(dir, name, bytes) {
        Err(e) if e.kind() == io::ErrorKind::StorageFull => {
            match std::fs::remove_file(spare(dir, name)) {
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Err(e),
                removed => removed?,
            }
            tracing::info!("the disk is full: {name} is written into the room that was set aside for it");
            replace(dir, name, bytes)
        }
        done => done,
    }
}

/// Keeps room for a replacement of `dir/name` by twice as many bytes as it has now.
///
/// # Errors
/// Without space, above all. Nothing is set aside then.
pub fn set_aside(dir: &Path, name: &str, bytes: usize) -> io::Result<()> {
    let path = spare(dir, name);
    let wanted = (bytes * 2).next_multiple_of(1 << 20);
    if std::fs::metadata(&path).is_ok_and(|spare| spare.len() >= wanted as u64) {
        return Ok(());
    }
    // Zeros that are written take room on every file system.
    let written = File::create(&path).and_then(|mut file| file.write_all(&vec![0; wanted]));
    written.or_else(|e| std::fs::remove_file(&path).and(Err(e)))
}

fn spare(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.spare"))
}

/// The bytes of `dir/name`, `None` if there is no such file.
pub fn read(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_room_is_set_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(read(dir, "f").unwrap(), None);
        replace_on_full_disk(dir, "f", b"one").unwrap();
        assert_eq!(read(dir, "f").unwrap().as_deref(), Some(b"one".as_slice()));
        set_aside(dir, "f", 10).unwrap();
        let len = || std::fs::metadata(spare(dir, "f")).unwrap().len();
        assert_eq!(len(), 1 << 20);
        set_aside(dir, "f", (1 << 19) + 1).unwrap();
        assert_eq!(len(), 2 << 20);
        set_aside(dir, "f", 10).unwrap();
        assert_eq!(len(), 2 << 20, "it does not shrink");
    }
}
