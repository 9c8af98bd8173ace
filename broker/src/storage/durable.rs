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
/// must be written down first, so nothing could be deleted otherwise. No more of it is given up than is needed: others,
/// who write segments, would take the rest, and the next replacement had none.
pub fn replace_on_full_disk(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut is_told = false;
    loop {
        match replace(dir, name, bytes) {
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                if !give_up_room(&spare(dir, name), bytes.len())? {
                    return Err(e);
                }
                if !std::mem::replace(&mut is_told, true) {
                    tracing::debug!("the disk is full: {name} is written into the room that was set aside");
                }
            }
            done => return done,
        }
    }
}

/// Makes a file of zeros shorter by at least so many bytes. False: there was nothing left of it.
fn give_up_room(path: &Path, bytes: usize) -> io::Result<bool> {
    let file = match File::options().write(true).open(path) {
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    let len = file.metadata()?.len();
    let less = bytes.next_multiple_of(ROOM_STEP) as u64;
    file.set_len(len.saturating_sub(less) / ROOM_STEP as u64 * ROOM_STEP as u64)?;
    Ok(len > 0)
}

/// Room comes and goes in such pieces: whole blocks of any file system.
const ROOM_STEP: usize = 64 << 10;

/// Keeps room for a replacement of `dir/name` by twice as many bytes as it has now.
///
/// # Errors
/// Without space, above all. What there was room for is kept then.
pub fn set_aside(dir: &Path, name: &str, bytes: usize) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).open(spare(dir, name))?;
    let wanted = (bytes * 2).next_multiple_of(1 << 20) as u64;
    // Zeros that are written take room on every file system.
    let zeros = [0; ROOM_STEP];
    for _ in (file.metadata()?.len()..wanted).step_by(ROOM_STEP) {
        file.write_all(&zeros)?;
    }
    Ok(())
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

    #[test]
    fn room_is_given_up_by_what_is_needed_and_grows_back() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let path = spare(dir, "f");
        assert!(!give_up_room(&path, 1).unwrap(), "none was set aside");
        set_aside(dir, "f", 10).unwrap();
        let len = || std::fs::metadata(&path).unwrap().len();
        assert!(give_up_room(&path, 13_000).unwrap());
        assert_eq!(len(), (1 << 20) - ROOM_STEP as u64);
        set_aside(dir, "f", 10).unwrap();
        assert_eq!(len(), 1 << 20);
        assert!(give_up_room(&path, 2 << 20).unwrap());
        assert_eq!(len(), 0);
        assert!(!give_up_room(&path, 1).unwrap(), "nothing is left");
    }
}
