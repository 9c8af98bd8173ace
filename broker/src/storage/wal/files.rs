//! The WAL directory: file names, creation, headers, durable directory entries.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chronik_core::wal::format::{BLOCK, FileHeader};
use chronik_core::wal::recovery::{Media, Unreadable};

use super::FlushMode;
use super::buffer::AlignedBuf;

const ZERO_CHUNK: usize = 1 << 20;

pub fn file_name(slot: u32) -> String {
    format!("{slot:05}.wal")
}

/// The slot of a file name, `None` for other files.
pub fn slot_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".wal")?;
    (digits.len() == 5).then(|| digits.parse().ok())?
}

/// The existing WAL files: slot and length.
pub fn list(dir: &Path) -> io::Result<Vec<(u32, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(slot) = entry.file_name().to_str().and_then(slot_of) {
            found.push((slot, entry.metadata()?.len()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes what happened to the entries of a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn open_with(path: &Path, flags: i32, write: bool) -> io::Result<File> {
    let open = |flags| OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
    match open(libc::O_DIRECT | flags) {
        // Some file systems (tmpfs, a few network ones) do not know O_DIRECT: the flush still works.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => open(flags),
        other => other,
    }
}

/// Opens a file for groups, around the page cache where the file system can.
pub fn open_for_groups(path: &Path, flush: FlushMode) -> io::Result<File> {
    let flags = if flush == FlushMode::Dsync { libc::O_DSYNC } else { 0 };
    open_with(path, flags, true)
}

/// Opens any file for reading, around the page cache where the file system can.
pub fn open_around_cache(path: &Path) -> io::Result<File> {
    open_with(path, 0, false)
}

/// Whether reading the file goes around the page cache.
pub fn is_around_cache(file: &File) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::DIRECT))
}

/// Opens a WAL file for reading, around the page cache where the file system can.
pub fn open_for_reading(dir: &Path, slot: u32) -> io::Result<File> {
    open_around_cache(&path_of(dir, slot))
}

/// Creates a zeroed file: its blocks exist and are initialised, so that a later write changes no metadata and
/// its flush is as cheap as the device allows. Durable on return. Nothing is left behind on an error.
pub fn create_zeroed(dir: &Path, name: &str, file_bytes: u64) -> io::Result<()> {
    let path = dir.join(name);
    let made = (|| {
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let zeros = vec![0; ZERO_CHUNK];
        let mut at = 0;
        while at < file_bytes {
            let len = (file_bytes - at).min(ZERO_CHUNK as u64) as usize;
            file.write_all_at(&zeros[..len], at)?;
            at += len as u64;
        }
        file.sync_all()?;
        sync_dir(dir)
    })();
    if made.is_err() {
        let _ = std::fs::remove_file(&path);
    }
    made
}

/// Writes both copies of a file's header and makes them durable.
pub fn write_header(file: &File, header: &FileHeader) -> io::Result<()> {
    let mut buf = AlignedBuf::new(2 * BLOCK, None);
    let block = header.encode();
    buf.as_mut()[..BLOCK].copy_from_slice(&block);
    buf.as_mut()[BLOCK..].copy_from_slice(&block);
    file.write_all_at(buf.as_ref(), 0)?;
    file.sync_data()
}

/// Reads `len` bytes at `at` through block-aligned memory, as `O_DIRECT` wants it. Behind the end: zeros.
pub fn read_aligned(file: &File, at: u64, len: usize) -> io::Result<(AlignedBuf, usize)> {
    let lead = (at % BLOCK as u64) as usize;
    let mut buf = AlignedBuf::new(lead + len, None);
    let start = at - lead as u64;
    let mut filled = 0;
    while filled < buf.as_ref().len() {
        match file.read_at(&mut buf.as_mut()[filled..], start + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if !filled.is_multiple_of(BLOCK) {
            break; // The end of a file that is not a whole number of blocks.
        }
    }
    Ok((buf, lead))
}

/// The directory as recovery reads it.
pub struct DirMedia {
    files: Vec<(u32, u64, File)>,
    /// The last read error, for the log.
    pub last_error: Option<(u32, u64, io::Error)>,
}

impl DirMedia {
    pub fn open(dir: &Path) -> io::Result<DirMedia> {
        let files = list(dir)?
            .into_iter()
            .map(|(slot, len)| Ok((slot, len, open_for_reading(dir, slot)?)))
            .collect::<io::Result<_>>()?;
        Ok(DirMedia { files, last_error: None })
    }

    /// Flushes every file: what recovery read may so far be in a cache only, and a power cut must not be able
    /// to take back what was served.
    pub fn sync(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|(_, _, file)| file.sync_data())
    }
}

impl Media for DirMedia {
    fn files(&mut self) -> Vec<(u32, u64)> {
        self.files.iter().map(|(slot, len, _)| (*slot, *len)).collect()
    }

    fn read(&mut self, slot: u32, at: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let (_, _, file) = self.files.iter().find(|(s, _, _)| *s == slot).ok_or(Unreadable)?;
        match read_aligned(file, at, buf.len()) {
            Ok((bytes, lead)) => {
                buf.copy_from_slice(&bytes.as_ref()[lead..lead + buf.len()]);
                Ok(())
            }
            Err(e) => {
                self.last_error = Some((slot, at, e));
                Err(Unreadable)
            }
        }
    }
}

/// Where a WAL file lies, for messages.
pub fn path_of(dir: &Path, slot: u32) -> PathBuf {
    dir.join(file_name(slot))
}
