//! The two ways to the disk: io_uring through tokio-uring, and `pwrite` on ordinary threads. Both write a
//! whole group and flush it before they say so.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::FlushMode;
use super::buffer::AlignedBuf;
use crate::storage::priority::run_soon;

/// What the configuration asks for (`chronik.wal.engine`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring if the kernel lets us, else `pwrite`.
    Auto,
    /// io_uring, or no start.
    Required,
    /// `pwrite`.
    Disabled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    IoUring,
    Pwrite,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::IoUring => "io_uring",
            Engine::Pwrite => "pwrite",
        })
    }
}

/// A small ring: it must fit into 8 MiB of locked memory beside others.
const RING_ENTRIES: u32 = 64;

fn ring() -> io::Result<tokio_uring::Runtime> {
    tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES))
}

/// Chooses the engine, and says why in words for the log, the metrics and `/v1/identity`.
pub fn choose(choice: EngineChoice) -> Result<(Engine, String), String> {
    if choice == EngineChoice::Disabled {
        return Ok((Engine::Pwrite, "chronik.wal.engine=disabled".to_string()));
    }
    // On a thread of its own: a tokio runtime cannot be made inside another.
    let probed = std::thread::scope(|s| {
        let probe = s.spawn(|| ring()?.block_on(async { tokio_uring::no_op().await }));
        probe.join().unwrap_or_else(|_| Err(io::Error::other("the probe of io_uring panicked")))
    });
    match (probed, choice) {
        (Ok(()), _) => Ok((Engine::IoUring, "the kernel offers io_uring".to_string())),
        (Err(e), EngineChoice::Required) => {
            Err(format!("chronik.wal.engine=required, but io_uring cannot be used here: {} ({e})", hint(&e)))
        }
        (Err(e), _) => Ok((Engine::Pwrite, format!("io_uring cannot be used: {} ({e})", hint(&e)))),
    }
}

fn hint(e: &io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel is older than io_uring",
        Some(libc::EPERM) => "a seccomp profile or kernel.io_uring_disabled forbids it",
        Some(libc::ENOMEM) => "the limit on locked memory (memlock) is too small",
        _ => "the kernel refused a ring",
    }
}

/// Runs a future on the engine's runtime, on the current thread.
pub fn block_on<T>(engine: Engine, future: impl Future<Output = T>) -> io::Result<T> {
    match engine {
        Engine::IoUring => Ok(ring()?.block_on(future)),
        Engine::Pwrite => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(32)
                .thread_name("wal-pwrite-io")
                .on_thread_start(run_soon)
                .build()?;
            Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
        }
    }
}

/// An open WAL file, ready for groups.
#[derive(Clone)]
pub enum GroupFile {
    IoUring(std::rc::Rc<tokio_uring::fs::File>),
    Pwrite(Arc<File>),
}

impl GroupFile {
    pub fn new(engine: Engine, file: File) -> GroupFile {
        match engine {
            Engine::IoUring => GroupFile::IoUring(std::rc::Rc::new(tokio_uring::fs::File::from_std(file))),
            Engine::Pwrite => GroupFile::Pwrite(Arc::new(file)),
        }
    }

    /// Writes a group and makes it durable. The flush of `fdatasync` mode is sent only after the write has
    /// completed in full: a linked pair could flush before the rest of a short write.
    pub async fn write(&self, flush: FlushMode, buf: AlignedBuf, at: u64) -> (io::Result<()>, AlignedBuf) {
        match self {
            GroupFile::IoUring(file) => {
                let (mut result, buf) = file.write_all_at(buf, at).await;
                if result.is_ok() && flush == FlushMode::Fdatasync {
                    result = file.sync_data().await;
                }
                (result, buf)
            }
            GroupFile::Pwrite(file) => {
                let file = file.clone();
                let write = move || {
                    let mut result = file.write_all_at(buf.as_ref(), at);
                    if result.is_ok() && flush == FlushMode::Fdatasync {
                        result = file.sync_data();
                    }
                    (result, buf)
                };
                match tokio::task::spawn_blocking(write).await {
                    Ok(done) => done,
                    Err(e) => (Err(io::Error::other(e)), AlignedBuf::new(0, None)),
                }
            }
        }
    }

    /// Returns once everything written so far has been handed to the kernel: tokio-uring submits when its
    /// thread goes to sleep, and there is other work to do while the device is busy.
    pub async fn submitted(&self) {
        if let GroupFile::IoUring(_) = self {
            let _ = tokio_uring::no_op().await;
        }
    }
}
