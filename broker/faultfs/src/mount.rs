//! The state machine behind a FUSE mount: the kernel's requests in, one lock, replies out.
//!
//! The kernel writes through: without its writeback cache every `write` reaches the state machine before it
//! returns, `O_DIRECT` or not, and its cached pages are dropped when a file is opened, so that none survives a
//! power cut. Entries and attributes are cached for no time, for the same reason. (`FOPEN_DIRECT_IO` would be
//! simpler, but on that path Linux 6.18 silently drops the flush that an `O_DSYNC` write asks for.) Locks are
//! left to the kernel, which keeps them for a local mount.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

use crate::state::{Attr, BLOCK_BYTES, FileSystem, Handle, NewAttr, ROOT, Refused};

/// Nothing is cached by the kernel.
const NO_TIME: Duration = Duration::ZERO;
/// Threads that serve requests: enough for a flush to wait beside a write.
const THREADS: usize = 4;

/// A mounted file system; dropping it takes the mount away.
#[derive(Debug)]
pub struct Mounted {
    state: Shared,
    path: PathBuf,
    session: Option<BackgroundSession>,
}

/// The state machine, shared with the threads that serve the mount.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<FileSystem>>);

impl Shared {
    /// Shares `fs`.
    pub fn new(fs: FileSystem) -> Self {
        Self(Arc::new(Mutex::new(fs)))
    }

    /// The state machine, alone. A panic elsewhere does not spoil it: each operation is one call.
    pub fn lock(&self) -> MutexGuard<'_, FileSystem> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mounted {
    /// Mounts an empty file system at `path`, a directory that is made if need be. Needs root and
    /// `/dev/fuse`; see [`unavailable`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(path: &Path, lenient: bool) -> io::Result<Self> {
        // A run that was killed may have left its mount behind, without a server: not even a directory then.
        detach(path);
        std::fs::create_dir_all(path)?;
        let state = Shared::new(FileSystem::new(lenient));
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("chronik-faultfs".into()),
            MountOption::Subtype("faultfs".into()),
            MountOption::NoAtime,
        ];
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(Fuse(state.clone()), path, &config)?;
        Ok(Self { state, path: path.to_owned(), session: Some(session) })
    }

    /// The state machine behind the mount.
    pub fn state(&self) -> &Shared {
        &self.state
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, so that a process which still has a file open cannot keep the directory busy.
        detach(&self.path);
        drop(self.session.take());
    }
}

/// Why this machine cannot mount, or `None` when it can.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting needs root".into());
    }
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .err()
        .map(|error| format!("/dev/fuse cannot be opened: {error}"))
}

fn detach(path: &Path) {
    // Nothing mounted there is the usual case, and an answer too.
    let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
}

/// The kernel's view.
struct Fuse(Shared);

fn errno(refused: Refused) -> Errno {
    Errno::from_i32(refused)
}

fn file_attr(attr: Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.sectors,
        atime: attr.modified,
        mtime: attr.modified,
        ctime: attr.modified,
        crtime: attr.modified,
        kind: if attr.directory { FileType::Directory } else { FileType::RegularFile },
        perm: (attr.mode & 0o7777) as u16,
        nlink: if attr.directory { 2 } else { 1 },
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK_BYTES as u32,
        flags: 0,
    }
}

impl Fuse {
    fn make(&self, req: &Request, parent: INodeNo, name: &OsStr, directory: bool, mode: u32) -> Made {
        let mut fs = self.0.lock();
        fs.create(parent.0, name, directory, (mode, req.uid(), req.gid())).map(file_attr).map_err(errno)
    }
}

type Made = Result<FileAttr, Errno>;

fn reply_entry(made: Made, reply: ReplyEntry) {
    match made {
        Ok(attr) => reply.entry(&NO_TIME, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn reply_empty(result: Result<(), Refused>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(refused) => reply.error(errno(refused)),
    }
}

impl Filesystem for Fuse {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A kernel that lacks this works, only more slowly. FUSE_ASYNC_DIO must stay off: with it, Linux sends no
        // flush for an asynchronous O_DSYNC write inside a file (it returns before the flush would be due).
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.0.lock().lookup(parent.0, name);
        reply_entry(found.map(file_attr).map_err(errno), reply);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.0.lock().attr(ino.0);
        match found {
            Ok(attr) => reply.attr(&NO_TIME, &file_attr(attr)),
            Err(refused) => reply.error(errno(refused)),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.0.lock().set_attr(ino.0, NewAttr { mode, uid, gid, size });
        match changed {
            Ok(attr) => reply.attr(&NO_TIME, &file_attr(attr)),
            Err(refused) => reply.error(errno(refused)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return reply.error(Errno::EPERM);
        }
        reply_entry(self.make(req, parent, name, false, mode & !umask), reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        reply_entry(self.make(req, parent, name, true, mode & !umask), reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.make(req, parent, name, false, mode & !umask);
        let opened = made.and_then(|attr| {
            let handle = self.0.lock().open(attr.ino.0).map_err(errno)?;
            Ok((attr, handle))
        });
        match opened {
            Ok((attr, handle)) => {
                reply.created(&NO_TIME, &attr, Generation(0), FileHandle(handle.0), FopenFlags::empty())
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.0.lock().remove(parent.0, name, false), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.0.lock().remove(parent.0, name, true), reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) || flags.contains(RenameFlags::RENAME_WHITEOUT) {
            return reply.error(Errno::EINVAL);
        }
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        reply_empty(self.0.lock().rename((parent.0, name), (newparent.0, newname), replace), reply);
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.0.lock().open(ino.0);
        match opened {
            Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::empty()),
            Err(refused) => reply.error(errno(refused)),
        }
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.0.lock().release(ino.0, Handle(fh.0));
        reply.ok();
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.0.lock().read(ino.0, Handle(fh.0), offset, size as usize);
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(refused) => reply.error(errno(refused)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.0.lock().write(ino.0, Handle(fh.0), offset, data);
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(refused) => reply.error(errno(refused)),
        }
    }

    /// Sent at each `close`: nothing becomes durable by closing.
    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply_empty(self.0.lock().flush(ino.0, Handle(fh.0)), reply);
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply_empty(self.0.lock().flush_dir(ino.0), reply);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.0.lock().list(ino.0);
        let entries = match listed {
            Ok(entries) => entries,
            Err(refused) => return reply.error(errno(refused)),
        };
        // "." and ".." come from the kernel's point of view only; their numbers are not used.
        let dots = [(ROOT, true, ".".into()), (ROOT, true, "..".into())];
        for (index, (ino, directory, name)) in
            dots.into_iter().chain(entries).enumerate().skip(offset as usize)
        {
            let kind = if directory { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(ino), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (total, free) = self.0.lock().space();
        let block = BLOCK_BYTES as u32;
        reply.statfs(total, free, free, 1 << 20, 1 << 20, block, 255, block);
    }

    fn access(&self, _req: &Request, ino: INodeNo, mask: fuser::AccessFlags, reply: ReplyEmpty) {
        let found = self.0.lock().access(ino.0, mask.contains(fuser::AccessFlags::W_OK));
        reply_empty(found, reply);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let known = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        if mode & !known != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let zero = mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0;
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let mut fs = self.0.lock();
        reply_empty(fs.allocate(ino.0, Handle(fh.0), (offset, length), (zero, keep_size)), reply);
    }
}
