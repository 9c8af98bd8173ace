//! The state machine against a model that is simple enough to be believed, and its rules one by one.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use proptest::prelude::*;

use super::*;

const PLAIN: (u32, u32, u32) = (0o644, 0, 0);

fn file(fs: &mut FileSystem, dir: Ino, name: &str) -> (Ino, Handle) {
    let ino = fs.create(dir, OsStr::new(name), false, PLAIN).unwrap().ino;
    (ino, fs.open(ino).unwrap())
}

fn contents(fs: &mut FileSystem, dir: Ino, name: &str) -> Option<Vec<u8>> {
    let attr = fs.lookup(dir, OsStr::new(name)).ok()?;
    let handle = fs.open(attr.ino).unwrap();
    let bytes = fs.read(attr.ino, handle, 0, attr.size as usize).unwrap();
    fs.release(attr.ino, handle);
    Some(bytes)
}

fn cut(fs: &mut FileSystem, mode: CutMode, seed: u64) -> CutReport {
    let report = fs.cut(mode, seed);
    fs.power_on();
    report
}

#[test]
fn a_file_is_kept_when_it_and_its_directory_were_flushed_and_not_before() {
    for (flush_file, flush_dir, expected) in [
        (false, false, None),
        (true, false, None),
        (false, true, Some(vec![])),
        (true, true, Some(b"hello".to_vec())),
    ] {
        let mut fs = FileSystem::new(false);
        let (ino, handle) = file(&mut fs, ROOT, "f");
        fs.write(ino, handle, 0, b"hello").unwrap();
        if flush_file {
            fs.flush(ino, handle).unwrap();
        }
        if flush_dir {
            fs.flush_dir(ROOT).unwrap();
        }
        cut(&mut fs, CutMode::Forget, 1);
        assert_eq!(contents(&mut fs, ROOT, "f"), expected, "file {flush_file}, directory {flush_dir}");
    }
}

#[test]
fn lenient_keeps_names_with_any_flush() {
    let mut fs = FileSystem::new(true);
    let (ino, handle) = file(&mut fs, ROOT, "f");
    fs.write(ino, handle, 0, b"x").unwrap();
    fs.flush(ino, handle).unwrap();
    cut(&mut fs, CutMode::Forget, 1);
    assert_eq!(contents(&mut fs, ROOT, "f"), Some(b"x".to_vec()));
}

#[test]
fn a_file_in_a_directory_whose_own_name_was_lost_is_lost() {
    let mut fs = FileSystem::new(false);
    let dir = fs.create(ROOT, OsStr::new("d"), true, PLAIN).unwrap().ino;
    let (ino, handle) = file(&mut fs, dir, "f");
    fs.flush(ino, handle).unwrap();
    fs.flush_dir(dir).unwrap();
    cut(&mut fs, CutMode::Forget, 1);
    assert_eq!(fs.list(ROOT).unwrap(), vec![]);
    assert_eq!(fs.nodes.len(), 1, "the lost directory and its file are freed");
}

#[test]
fn a_rename_is_kept_or_lost_as_a_whole() {
    for seed in 0..64 {
        let mut fs = FileSystem::new(false);
        let dir = fs.create(ROOT, OsStr::new("d"), true, PLAIN).unwrap().ino;
        file(&mut fs, ROOT, "a");
        fs.flush_dir(ROOT).unwrap();
        fs.rename((ROOT, OsStr::new("a")), (dir, OsStr::new("b")), true).unwrap();
        cut(&mut fs, CutMode::Mixed, seed);
        let old = fs.lookup(ROOT, OsStr::new("a")).is_ok();
        let new = fs.lookup(dir, OsStr::new("b")).is_ok();
        assert!(old != new, "seed {seed}: old {old}, new {new}");
    }
}

#[test]
fn flushing_the_new_directory_of_a_moved_file_leaves_no_second_name_behind() {
    let mut fs = FileSystem::new(false);
    let dir = fs.create(ROOT, OsStr::new("d"), true, PLAIN).unwrap().ino;
    fs.flush_dir(ROOT).unwrap();
    file(&mut fs, ROOT, "a");
    fs.rename((ROOT, OsStr::new("a")), (dir, OsStr::new("b")), true).unwrap();
    fs.flush_dir(dir).unwrap();
    for seed in 0..16 {
        cut(&mut fs, CutMode::Mixed, seed);
        assert!(fs.lookup(ROOT, OsStr::new("a")).is_err());
        assert!(fs.lookup(dir, OsStr::new("b")).is_ok());
    }
}

#[test]
fn an_unflushed_removal_is_undone_with_the_contents() {
    let mut fs = FileSystem::new(false);
    let (ino, handle) = file(&mut fs, ROOT, "f");
    fs.write(ino, handle, 0, b"keep").unwrap();
    fs.flush(ino, handle).unwrap();
    fs.flush_dir(ROOT).unwrap();
    fs.release(ino, handle);
    fs.remove(ROOT, OsStr::new("f"), false).unwrap();
    assert_eq!(contents(&mut fs, ROOT, "f"), None);
    cut(&mut fs, CutMode::Forget, 1);
    assert_eq!(contents(&mut fs, ROOT, "f"), Some(b"keep".to_vec()));
}

#[test]
fn mixed_cuts_lose_keep_and_tear() {
    let mut fs = FileSystem::new(false);
    let (ino, handle) = file(&mut fs, ROOT, "f");
    let (old, new) = (vec![1; 64 * BLOCK_BYTES], vec![2; 64 * BLOCK_BYTES]);
    fs.write(ino, handle, 0, &old).unwrap();
    fs.flush(ino, handle).unwrap();
    fs.flush_dir(ROOT).unwrap();
    fs.write(ino, handle, 0, &new).unwrap();
    let report = cut(&mut fs, CutMode::Mixed, 5);
    assert!(report.lost > 0 && report.kept > 0 && report.torn > 0, "{report:?}");
    let bytes = contents(&mut fs, ROOT, "f").unwrap();
    for sector in bytes.chunks(SECTOR_BYTES) {
        assert!(sector.iter().all(|&b| b == 1) || sector.iter().all(|&b| b == 2), "a sector was torn");
    }
    let torn = |block: &[u8]| block.contains(&1) && block.contains(&2);
    assert_eq!(bytes.chunks(BLOCK_BYTES).filter(|block| torn(block)).count() as u64 > 0, report.torn > 0);
}

#[test]
fn the_same_seed_cuts_the_same_way() {
    let after = |seed| {
        let mut fs = FileSystem::new(false);
        let (ino, handle) = file(&mut fs, ROOT, "f");
        fs.set_attr(ino, NewAttr { size: Some(32 * 4096), ..NewAttr::default() }).unwrap();
        fs.flush(ino, handle).unwrap();
        fs.flush_dir(ROOT).unwrap();
        for block in 0..32u8 {
            fs.write(ino, handle, u64::from(block) * 4096, &[block; 4096]).unwrap();
        }
        cut(&mut fs, CutMode::Mixed, seed);
        contents(&mut fs, ROOT, "f")
    };
    assert_eq!(after(9), after(9));
    assert_ne!(after(9), after(10));
}

#[test]
fn old_handles_stay_dead_after_power_is_back() {
    let mut fs = FileSystem::new(false);
    let (ino, handle) = file(&mut fs, ROOT, "f");
    fs.flush_dir(ROOT).unwrap();
    fs.cut(CutMode::Forget, 1);
    assert_eq!(fs.lookup(ROOT, OsStr::new("f")).unwrap_err(), libc::EIO);
    fs.power_on();
    assert_eq!(fs.write(ino, handle, 0, b"late"), Err(libc::EIO));
    assert_eq!(fs.flush(ino, handle), Err(libc::EIO));
    let fresh = fs.open(ino).unwrap();
    assert_eq!(fs.write(ino, fresh, 0, b"new"), Ok(()));
}

#[test]
fn a_refused_flush_is_never_made_good_by_a_later_one() {
    let mut fs = FileSystem::new(false);
    let (ino, handle) = file(&mut fs, ROOT, "f");
    fs.flush_dir(ROOT).unwrap();
    fs.write(ino, handle, 0, &[1; BLOCK_BYTES]).unwrap();
    fs.faults_mut().fail_flush_after = Some(0);
    assert_eq!(fs.flush(ino, handle), Err(libc::EIO));
    fs.faults_mut().fail_flush_after = None;
    assert_eq!(fs.flush(ino, handle), Ok(()));
    assert_eq!(contents(&mut fs, ROOT, "f").unwrap()[0], 1, "still there for readers");
    cut(&mut fs, CutMode::Mixed, 3);
    assert_eq!(contents(&mut fs, ROOT, "f").unwrap(), vec![0; BLOCK_BYTES], "and gone with the power");
}

#[test]
fn faults_strike_from_the_nth_operation_on() {
    let mut fs = FileSystem::new(false);
    let (ino, handle) = file(&mut fs, ROOT, "f");
    fs.faults_mut().fail_write_after = Some(2);
    let results: Vec<_> = (0..4).map(|_| fs.write(ino, handle, 0, b"x").is_ok()).collect();
    assert_eq!(results, [true, true, false, false]);
}

#[test]
fn an_unreadable_block_fails_who_reads_it_and_nobody_else() {
    let mut fs = FileSystem::new(false);
    let (ino, handle) = file(&mut fs, ROOT, "f");
    fs.write(ino, handle, 0, &[1; 4 * BLOCK_BYTES]).unwrap();
    let block = BLOCK_BYTES as u64;
    fs.faults_mut().unreadable = Some((ino, block + 7));
    assert_eq!(fs.read(ino, handle, 0, BLOCK_BYTES).map(|bytes| bytes.len()), Ok(BLOCK_BYTES));
    assert_eq!(fs.read(ino, handle, 0, BLOCK_BYTES + 1), Err(libc::EIO));
    assert_eq!(fs.read(ino, handle, block, 1), Err(libc::EIO));
    assert!(fs.read(ino, handle, 2 * block, 4 * BLOCK_BYTES).is_ok());
    assert_eq!(fs.stats().failed_reads, 2);
    fs.faults_mut().unreadable = None;
    assert!(fs.read(ino, handle, 0, 4 * BLOCK_BYTES).is_ok());
}

#[test]
fn a_full_disk_refuses_new_blocks_and_recovers_when_space_returns() {
    let mut fs = FileSystem::new(false);
    let (a, ha) = file(&mut fs, ROOT, "a");
    let (b, hb) = file(&mut fs, ROOT, "b");
    fs.write(a, ha, 0, &[1; 2 * BLOCK_BYTES]).unwrap();
    fs.limit_free_space(BLOCK_BYTES as u64);
    assert_eq!(fs.space().1, 1);
    assert_eq!(fs.write(b, hb, 0, &[1; 2 * BLOCK_BYTES]), Err(libc::ENOSPC));
    assert_eq!(fs.write(a, ha, 0, &[2; 2 * BLOCK_BYTES]), Ok(()), "blocks it has are written over");
    assert_eq!(fs.allocate(b, hb, (0, 3 * 4096), (false, false)), Err(libc::ENOSPC));
    fs.release(a, ha);
    fs.remove(ROOT, OsStr::new("a"), false).unwrap();
    assert_eq!(fs.space().1, 3);
    assert_eq!(fs.write(b, hb, 0, &[1; 2 * BLOCK_BYTES]), Ok(()));
}

#[test]
fn zeros_take_space_on_the_disk_but_not_in_memory() {
    let mut fs = FileSystem::new(false);
    let (ino, handle) = file(&mut fs, ROOT, "wal");
    fs.write(ino, handle, 0, &vec![0; 1 << 20]).unwrap();
    let attr = fs.attr(ino).unwrap();
    assert_eq!((attr.size, attr.sectors), (1 << 20, (1 << 20) / 512));
    assert_eq!(format!("{:?}", fs.nodes[&ino].data.as_ref().unwrap()).matches("Dirty").count(), 0);
}

#[test]
fn a_flipped_bit_is_seen_at_once_and_survives() {
    let mut fs = FileSystem::new(false);
    let (ino, handle) = file(&mut fs, ROOT, "f");
    fs.write(ino, handle, 0, &[0b10; 10]).unwrap();
    fs.flush(ino, handle).unwrap();
    fs.flush_dir(ROOT).unwrap();
    fs.flip(std::path::Path::new("/f"), 4).unwrap();
    assert_eq!(contents(&mut fs, ROOT, "f").unwrap()[3..6], [2, 3, 2]);
    cut(&mut fs, CutMode::Forget, 1);
    assert_eq!(contents(&mut fs, ROOT, "f").unwrap()[3..6], [2, 3, 2]);
    assert_eq!(fs.flip(std::path::Path::new("f"), 10), Err(libc::EINVAL));
}

#[test]
fn a_read_only_disk_serves_reads_and_refuses_changes() {
    let mut fs = FileSystem::new(false);
    let (ino, handle) = file(&mut fs, ROOT, "f");
    fs.faults_mut().read_only = true;
    assert_eq!(fs.write(ino, handle, 0, b"x"), Err(libc::EROFS));
    assert_eq!(fs.create(ROOT, OsStr::new("g"), false, PLAIN).unwrap_err(), libc::EROFS);
    assert_eq!(fs.remove(ROOT, OsStr::new("f"), false), Err(libc::EROFS));
    assert_eq!(fs.read(ino, handle, 0, 10), Ok(vec![]));
}

/// A step on one of a few files with fixed names.
#[derive(Clone, Debug)]
enum Step {
    Write(usize, u64, usize, u8),
    Truncate(usize, u64),
    Zero(usize, u64, u64),
    Flush(usize),
    FlushDir,
    Remove(usize),
    Rename(usize, usize),
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..3usize;
    let at = 0..20_000u64;
    prop_oneof![
        6 => (which.clone(), at.clone(), 1..9_000usize, 0..4u8)
            .prop_map(|(f, o, n, b)| Step::Write(f, o, n, b)),
        2 => (which.clone(), at.clone()).prop_map(|(f, o)| Step::Truncate(f, o)),
        1 => (which.clone(), at.clone(), at).prop_map(|(f, o, n)| Step::Zero(f, o, n)),
        4 => which.clone().prop_map(Step::Flush),
        3 => Just(Step::FlushDir),
        1 => which.clone().prop_map(Step::Remove),
        1 => (which.clone(), which).prop_map(|(a, b)| Step::Rename(a, b)),
        1 => Just(Step::Cut),
    ]
}

/// The model: whole byte strings, copied at each flush.
#[derive(Default)]
struct Model {
    files: BTreeMap<u64, (Vec<u8>, Vec<u8>)>,
    names: BTreeMap<usize, u64>,
    durable_names: BTreeMap<usize, u64>,
    next: u64,
}

impl Model {
    fn file(&mut self, name: usize) -> &mut (Vec<u8>, Vec<u8>) {
        let next = &mut self.next;
        let id = *self.names.entry(name).or_insert_with(|| {
            *next += 1;
            *next
        });
        self.files.entry(id).or_default()
    }
}

fn name(index: usize) -> String {
    format!("file-{index}")
}

fn open_or_create(fs: &mut FileSystem, index: usize) -> (Ino, Handle) {
    match fs.lookup(ROOT, OsStr::new(&name(index))) {
        Ok(attr) => (attr.ino, fs.open(attr.ino).unwrap()),
        Err(_) => file(fs, ROOT, &name(index)),
    }
}

fn take(fs: &mut FileSystem, model: &mut Model, step: &Step, mode: CutMode, seed: u64) {
    match *step {
        Step::Write(f, offset, len, byte) => {
            let (ino, handle) = open_or_create(fs, f);
            fs.write(ino, handle, offset, &vec![byte; len]).unwrap();
            fs.release(ino, handle);
            let (now, _) = model.file(f);
            let end = offset as usize + len;
            now.resize(now.len().max(end), 0);
            now[offset as usize..end].fill(byte);
        }
        Step::Truncate(f, len) => {
            let (ino, handle) = open_or_create(fs, f);
            fs.set_attr(ino, NewAttr { size: Some(len), ..NewAttr::default() }).unwrap();
            fs.release(ino, handle);
            model.file(f).0.resize(len as usize, 0);
        }
        Step::Zero(f, offset, len) => {
            let (ino, handle) = open_or_create(fs, f);
            fs.allocate(ino, handle, (offset, len), (true, true)).unwrap();
            fs.release(ino, handle);
            let (now, _) = model.file(f);
            let end = now.len().min((offset + len) as usize);
            if (offset as usize) < end {
                now[offset as usize..end].fill(0);
            }
        }
        Step::Flush(f) => {
            let (ino, handle) = open_or_create(fs, f);
            fs.flush(ino, handle).unwrap();
            fs.release(ino, handle);
            let (now, durable) = model.file(f);
            durable.clone_from(now);
        }
        Step::FlushDir => {
            fs.flush_dir(ROOT).unwrap();
            model.durable_names = model.names.clone();
        }
        Step::Remove(f) => {
            let removed = fs.remove(ROOT, OsStr::new(&name(f)), false).is_ok();
            assert_eq!(removed, model.names.remove(&f).is_some());
        }
        Step::Rename(from, to) => {
            let (from_name, to_name) = (name(from), name(to));
            let renamed =
                fs.rename((ROOT, OsStr::new(&from_name)), (ROOT, OsStr::new(&to_name)), true).is_ok();
            assert_eq!(renamed, model.names.contains_key(&from));
            if let Some(id) = model.names.remove(&from) {
                model.names.insert(to, id);
            }
        }
        Step::Cut => {
            cut(fs, mode, seed);
            if mode == CutMode::Forget {
                model.names = model.durable_names.clone();
                for (now, durable) in model.files.values_mut() {
                    now.clone_from(durable);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// With `Forget`, the visible and the surviving contents are the model's, byte for byte.
    #[test]
    fn forgetful_cuts_agree_with_the_model(steps in prop::collection::vec(step(), 1..40)) {
        let (mut fs, mut model) = (FileSystem::new(false), Model::default());
        for step in steps.iter().chain([&Step::Cut]) {
            take(&mut fs, &mut model, step, CutMode::Forget, 0);
            for f in 0..3 {
                let expected = model.names.get(&f).and_then(|id| model.files.get(id)).map(|file| file.0.clone());
                prop_assert_eq!(contents(&mut fs, ROOT, &name(f)), expected, "file {} after {:?}", f, step);
            }
        }
    }

    /// With `Mixed`, each sector holds what was flushed last or what was written last, and nothing else.
    #[test]
    fn mixed_cuts_leave_each_sector_old_or_new(
        steps in prop::collection::vec(step(), 1..30),
        seed in any::<u64>(),
    ) {
        let (mut fs, mut model) = (FileSystem::new(false), Model::default());
        for f in 0..3 {
            model.file(f);
            open_or_create(&mut fs, f);
        }
        fs.flush_dir(ROOT).unwrap();
        let data_only = |step: &&Step| !matches!(step, Step::Remove(_) | Step::Rename(..) | Step::Cut);
        for step in steps.iter().filter(data_only) {
            take(&mut fs, &mut model, step, CutMode::Mixed, seed);
        }
        cut(&mut fs, CutMode::Mixed, seed);
        for f in 0..3 {
            let (now, durable) = model.file(f).clone();
            let after = contents(&mut fs, ROOT, &name(f)).unwrap();
            prop_assert!(after.len() == now.len() || after.len() == durable.len());
            for (index, sector) in after.chunks(SECTOR_BYTES).enumerate() {
                let start = index * SECTOR_BYTES;
                let of = |source: &Vec<u8>| {
                    let mut bytes = source.get(start..).unwrap_or(&[]).to_vec();
                    bytes.resize(sector.len(), 0);
                    bytes
                };
                prop_assert!(sector == of(&now) || sector == of(&durable), "file {f}, sector {index}");
            }
        }
    }
}
