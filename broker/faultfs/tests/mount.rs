//! The mounted file system, through the calls that a broker makes. Needs root and `/dev/fuse`: elsewhere each
//! test says that it was skipped, unless `CHRONIK_FAULTFS=required`, which makes that a failure.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use chronik_faultfs::mount::{Mounted, unavailable};
use chronik_faultfs::state::CutMode;

struct Bed {
    // Fields drop in this order: the mount goes before its directory.
    mounted: Mounted,
    directory: tempfile::TempDir,
}

impl Bed {
    fn new() -> Option<Self> {
        if let Some(why) = unavailable() {
            let required = std::env::var("CHRONIK_FAULTFS").is_ok_and(|value| value == "required");
            assert!(!required, "CHRONIK_FAULTFS=required, but {why}");
            eprintln!("skipped: {why}");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let mounted = Mounted::new(directory.path(), false).unwrap();
        Some(Self { mounted, directory })
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// An empty file whose name is durable.
    fn create(&self, name: &str) {
        File::create(self.path(name)).unwrap();
        self.sync_dir();
    }

    fn sync_dir(&self) {
        File::open(self.directory.path()).unwrap().sync_all().unwrap();
    }

    fn power_cycle(&self) {
        self.mounted.state().lock().cut(CutMode::Forget, 1);
        self.mounted.state().lock().power_on();
    }

    fn flushes(&self) -> u64 {
        self.mounted.state().lock().stats().flushes
    }
}

/// Memory that direct I/O accepts: one block at a multiple of 4 KiB.
#[repr(align(4096))]
struct Aligned([u8; 4096]);

fn direct(path: &Path, flags: i32) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT | flags).open(path).unwrap()
}

#[test]
fn unflushed_writes_are_forgotten_and_flushed_ones_kept() {
    let Some(bed) = Bed::new() else { return };
    bed.create("f");
    let mut file = OpenOptions::new().append(true).open(bed.path("f")).unwrap();
    file.write_all(b"flushed ").unwrap();
    file.sync_data().unwrap();
    file.write_all(b"and not").unwrap();
    assert_eq!(fs::read(bed.path("f")).unwrap(), b"flushed and not");
    bed.power_cycle();
    assert_eq!(fs::read(bed.path("f")).unwrap(), b"flushed ");
    assert_eq!(file.write_all(b"late").unwrap_err().raw_os_error(), Some(libc::EIO));
}

#[test]
fn direct_synchronous_writes_are_durable_when_they_return() {
    let Some(bed) = Bed::new() else { return };
    bed.create("wal");
    let before = bed.flushes();
    let file = direct(&bed.path("wal"), libc::O_DSYNC);
    file.write_all_at(&Aligned([7; 4096]).0, 0).unwrap();
    file.write_all_at(&Aligned([8; 4096]).0, 4096).unwrap();
    assert_eq!(bed.flushes() - before, 2, "each O_DSYNC write arrives with a flush of its own");
    bed.power_cycle();
    let bytes = fs::read(bed.path("wal")).unwrap();
    assert!(bytes.len() == 8192 && bytes[..4096] == [7; 4096] && bytes[4096..] == [8; 4096]);
}

#[test]
fn direct_writes_without_a_flush_are_forgotten() {
    let Some(bed) = Bed::new() else { return };
    bed.create("wal");
    let file = direct(&bed.path("wal"), 0);
    file.write_all_at(&Aligned([7; 4096]).0, 0).unwrap();
    bed.power_cycle();
    assert_eq!(fs::read(bed.path("wal")).unwrap(), b"");
}

#[test]
fn a_write_that_asks_for_its_own_flush_gets_one() {
    let Some(bed) = Bed::new() else { return };
    bed.create("wal");
    let file = direct(&bed.path("wal"), 0);
    let block = Aligned([9; 4096]);
    let flags = rustix::io::ReadWriteFlags::DSYNC;
    let written = rustix::io::pwritev2(&file, &[io::IoSlice::new(&block.0)], 0, flags).unwrap();
    assert_eq!(written, 4096);
    bed.power_cycle();
    assert!(fs::read(bed.path("wal")).unwrap() == [9; 4096]);
}

#[test]
fn writes_through_io_uring_obey_the_same_rules() {
    let Some(bed) = Bed::new() else { return };
    for name in ["dsync", "fdatasync", "none"] {
        bed.create(name);
    }
    // As in the log, the files have their length already: the kernel takes another way for a write that extends.
    for name in ["dsync", "fdatasync", "none"] {
        fs::write(bed.path(name), [0; 4 * 4096]).unwrap();
        fs::File::open(bed.path(name)).unwrap().sync_all().unwrap();
    }
    let before = bed.flushes();
    tokio_uring::start(async {
        for (name, flags, sync) in
            [("dsync", libc::O_DSYNC, false), ("fdatasync", 0, true), ("none", 0, false)]
        {
            let mut options = tokio_uring::fs::OpenOptions::new();
            let file = options
                .read(true)
                .write(true)
                .custom_flags(libc::O_DIRECT | flags)
                .open(bed.path(name))
                .await
                .unwrap();
            // Four at once, as the log has them in flight.
            let writes: Vec<_> =
                (0..4u64).map(|n| file.write_at(vec![n as u8 + 1; 4096], n * 4096).submit()).collect();
            for write in writes {
                assert_eq!(write.await.0.unwrap(), 4096);
            }
            if sync {
                file.sync_data().await.unwrap();
            }
            file.close().await.unwrap();
        }
    });
    assert_eq!(bed.flushes() - before, 5, "four O_DSYNC writes and one fdatasync");
    bed.power_cycle();
    let expected: Vec<u8> = (1..=4).flat_map(|n| [n; 4096]).collect();
    assert!(fs::read(bed.path("dsync")).unwrap() == expected);
    assert!(fs::read(bed.path("fdatasync")).unwrap() == expected);
    assert!(fs::read(bed.path("none")).unwrap() == [0; 4 * 4096]);
}

#[test]
fn names_follow_their_directory() {
    let Some(bed) = Bed::new() else { return };
    bed.create("old");
    fs::create_dir(bed.path("d")).unwrap();
    bed.sync_dir();
    fs::write(bed.path("new"), b"x").unwrap();
    File::open(bed.path("new")).unwrap().sync_all().unwrap();
    fs::rename(bed.path("old"), bed.path("d/moved")).unwrap();
    let names = |path: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(bed.directory.path()), ["d", "new"]);
    bed.power_cycle();
    assert_eq!(names(bed.directory.path()), ["d", "old"]);
    assert_eq!(names(&bed.path("d")), [""; 0]);
}

#[test]
fn locks_are_exclusive() {
    let Some(bed) = Bed::new() else { return };
    bed.create("lock");
    let open = || OpenOptions::new().write(true).open(bed.path("lock")).unwrap();
    let (first, second) = (open(), open());
    first.try_lock().unwrap();
    assert!(matches!(second.try_lock(), Err(fs::TryLockError::WouldBlock)));
    drop(first);
    second.try_lock().unwrap();
}

#[test]
fn a_full_disk_says_so_and_shows_it() {
    let Some(bed) = Bed::new() else { return };
    bed.create("f");
    bed.mounted.state().lock().limit_free_space(8192);
    let stat = rustix::fs::statvfs(bed.directory.path()).unwrap();
    assert_eq!(stat.f_bavail * stat.f_frsize, 8192);
    let mut file = OpenOptions::new().write(true).open(bed.path("f")).unwrap();
    let error = file.write_all(&[1; 16384]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    bed.mounted.state().lock().unlimit_free_space();
    file.write_all(&[1; 16384]).unwrap();
}

#[test]
fn preallocation_and_truncation_work() {
    let Some(bed) = Bed::new() else { return };
    bed.create("wal");
    let mut file = OpenOptions::new().read(true).write(true).open(bed.path("wal")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 64 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 64 << 20);
    file.write_all(b"abcdef").unwrap();
    file.set_len(3).unwrap();
    let mut text = String::new();
    File::open(bed.path("wal")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "abc");
}

#[test]
fn flushing_from_several_threads_is_quick_enough_for_load() {
    let Some(bed) = Bed::new() else { return };
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let name = format!("f{thread}");
            bed.create(&name);
            let path = bed.path(&name);
            scope.spawn(move || {
                let file = direct(&path, libc::O_DSYNC);
                for n in 0..1000 {
                    file.write_all_at(&Aligned([1; 4096]).0, n * 4096).unwrap();
                }
            });
        }
    });
    assert!(bed.flushes() >= 4000);
    println!("{:.0} flushed writes a second", 4000.0 / started.elapsed().as_secs_f64());
}
