//! Bit rot and lost files, done while the broker is down.
//!
//! Fair: what is damaged was durable, and somewhere else, undamaged, it is written that it was (invariant 1).
//! Without that record no log could tell damage from a torn end.

use std::collections::BTreeSet;

use chronik_core::store::checkpoint::Checkpoint;
use chronik_core::wal::format::{BLOCK, FileHeader, GROUP_HEADER_LEN, decode_group};

use crate::disk::{Inode, SECTOR, wal_name};
use crate::env::Env;
use crate::history::GroupFact;
use crate::shell::CHECKPOINT;
use crate::stats::Fault;

/// Damages something, if there is something that may be damaged.
pub fn strike(env: &mut Env) {
    let wanted = match env.rng.below(10) {
        0 => strike_file(env),
        1 => strike_spare_part(env),
        _ => strike_group(env),
    };
    if let Some(fault) = wanted {
        env.stats.fault(fault);
        env.history.any_damage = true;
    }
}

/// Where the first group begins that the checkpoint needs: the one there is, or the one that a power loss
/// would bring back.
fn needed_from(env: &Env) -> u64 {
    let position_in = |inode: Option<Inode>| {
        let checkpoint = inode.and_then(|inode| Checkpoint::decode(env.disk.medium(inode)).ok());
        checkpoint.map_or(0, |c| c.position.0)
    };
    let visible = position_in(env.disk.inode(CHECKPOINT));
    let position = visible.min(position_in(env.disk.durable_inode(CHECKPOINT)));
    let holding = env.history.groups.range(..=position).next_back();
    holding.filter(|(at, fact)| *at + fact.len as u64 > position).map_or(position, |(at, _)| *at)
}

fn file_header(env: &Env, slot: u32) -> Option<(Inode, FileHeader)> {
    let inode = env.disk.inode(&wal_name(slot))?;
    let copy = |n| FileHeader::decode(env.disk.durable_bytes(inode, n * BLOCK, BLOCK)?).ok();
    Some((inode, copy(0).or_else(|| copy(1))?))
}

/// The group as it lies on the medium, if it is whole.
fn whole_group<'a>(env: &'a Env, fact: &GroupFact) -> Option<&'a [u8]> {
    let (inode, header) = file_header(env, fact.slot)?;
    let bytes = env.disk.durable_bytes(inode, fact.file_offset as usize, fact.len)?;
    let (found, _) = decode_group(bytes).ok()?;
    (header.generation == fact.generation && found.generation == fact.generation).then_some(bytes)
}

/// The groups from the checkpoint on that are whole: position, what is known of it, and the position that it
/// records as durable.
fn whole_groups(env: &Env) -> Vec<(u64, GroupFact, u64)> {
    let from = needed_from(env);
    let groups = env.history.groups.range(from..);
    groups
        .filter_map(|(position, fact)| {
            let (header, _) = decode_group(whole_group(env, fact)?).ok()?;
            Some((*position, fact.clone(), header.durable.0))
        })
        .collect()
}

/// The greatest position recorded as durable, by groups and files other than those excepted.
fn evidence(env: &Env, except_group: Option<u64>, except_slot: Option<u32>) -> u64 {
    let groups = whole_groups(env).into_iter();
    let groups = groups.filter(|(at, fact, _)| Some(*at) != except_group && Some(fact.slot) != except_slot);
    let by_group = groups.map(|(_, _, durable)| durable).max().unwrap_or(0);
    let names = env.disk.list("wal/");
    let slots = names.iter().filter_map(|n| n.strip_prefix("wal/")?.strip_suffix(".wal")?.parse().ok());
    let by_file = slots
        .filter(|slot| Some(*slot) != except_slot)
        .filter_map(|slot| file_header(env, slot))
        .map(|(_, header)| header.durable.0)
        .max()
        .unwrap_or(0);
    by_group.max(by_file)
}

/// Whether what was damaged before is still told of when these are gone too.
fn earlier_damage_is_told(env: &Env, except_group: Option<u64>, except_slot: Option<u32>) -> bool {
    let from = needed_from(env);
    let damaged = env.history.damaged_groups.range(from..).next_back().copied();
    damaged.is_none_or(|at| evidence(env, except_group, except_slot) > at)
}

fn strike_group(env: &mut Env) -> Option<Fault> {
    let groups = whole_groups(env);
    let with_entries: Vec<_> = groups.iter().filter(|(_, fact, _)| !fact.partitions.is_empty()).collect();
    let (position, fact, _) = (*env.rng.pick(&with_entries)?).clone();
    let told = evidence(env, Some(position), None) > position;
    if !told || !earlier_damage_is_told(env, Some(position), None) {
        return None;
    }
    let inode = env.disk.inode(&wal_name(fact.slot))?;
    let start = fact.file_offset as usize;
    let directory = start + GROUP_HEADER_LEN..start + GROUP_HEADER_LEN + fact.directory_len;
    let trailer_at = start + fact.len - GROUP_HEADER_LEN;
    let end_directory = trailer_at - fact.directory_len..trailer_at;
    let fault = match env.rng.below(9) {
        0 => {
            flip(env, inode, start + fact.payload_at, fact.payload_len.max(1));
            Fault::RotPayload
        }
        1 => {
            flip(env, inode, start, GROUP_HEADER_LEN);
            Fault::RotGroupHeader
        }
        2 => {
            flip(env, inode, directory.start, directory.len());
            Fault::RotFirstDirectory
        }
        3 => {
            flip(env, inode, end_directory.start, end_directory.len());
            Fault::RotEndDirectory
        }
        4 | 5 => {
            flip(env, inode, start, GROUP_HEADER_LEN);
            flip(env, inode, trailer_at, GROUP_HEADER_LEN);
            Fault::RotBothEnds
        }
        6 => {
            let sector = start + env.rng.index(fact.len / SECTOR) * SECTOR;
            let word = env.rng.next().to_le_bytes();
            env.disk.rot(inode, sector, SECTOR, &mut |bytes| {
                bytes.iter_mut().zip(word.iter().cycle()).for_each(|(byte, noise)| *byte ^= noise | 1);
            });
            Fault::GarbageSector
        }
        7 => {
            let block = start + env.rng.index(fact.len / BLOCK) * BLOCK;
            env.disk.rot(inode, block, BLOCK, &mut |bytes| bytes.fill(0));
            Fault::ZeroedBlock
        }
        _ => {
            let sector = start + env.rng.index(fact.len / SECTOR) * SECTOR;
            env.disk.make_unreadable(inode, sector);
            Fault::UnreadableSector
        }
    };
    env.note("damage", &[position, fault as u64]);
    if whole_group(env, &fact).is_none() {
        mark(env, position, &fact);
    }
    Some(fault)
}

fn mark(env: &mut Env, position: u64, fact: &GroupFact) {
    env.history.damaged_groups.insert(position);
    for tp in &fact.partitions {
        env.history.partition(*tp).damaged = true;
    }
}

fn flip(env: &mut Env, inode: Inode, at: usize, len: usize) {
    let (byte, bit) = (at + env.rng.index(len), env.rng.below(8));
    env.disk.rot(inode, byte, 1, &mut |bytes| bytes[0] ^= 1 << bit);
}

/// A whole file: both copies of its header, or the file itself.
fn strike_file(env: &mut Env) -> Option<Fault> {
    let groups = whole_groups(env);
    let slots: BTreeSet<u32> = groups.iter().map(|(_, fact, _)| fact.slot).collect();
    let slot = *env.rng.pick(&slots.into_iter().collect::<Vec<_>>())?;
    let inside: Vec<_> = groups.iter().filter(|(_, fact, _)| fact.slot == slot).collect();
    let last = inside.iter().map(|(at, _, _)| *at).max()?;
    if evidence(env, None, Some(slot)) <= last || !earlier_damage_is_told(env, None, Some(slot)) {
        return None;
    }
    let fault = match env.rng.percent(50) {
        true => {
            let (inode, _) = file_header(env, slot)?;
            flip(env, inode, 0, 64);
            flip(env, inode, BLOCK, 64);
            Fault::RotBothFileHeaders
        }
        false => {
            env.disk.lose_file(&wal_name(slot));
            Fault::LostWalFile
        }
    };
    env.note("damage", &[u64::from(slot), fault as u64]);
    for (position, fact, _) in &inside {
        mark(env, *position, fact);
    }
    Some(fault)
}

/// What nobody will miss: one copy of a file's header, or a group below the checkpoint.
fn strike_spare_part(env: &mut Env) -> Option<Fault> {
    if env.rng.percent(50) {
        let names = env.disk.list("wal/");
        let inode = env.disk.inode(env.rng.pick(&names)?)?;
        let both_fine = (0..2).all(|n| {
            env.disk.read(inode, n * BLOCK, BLOCK).is_ok_and(|block| FileHeader::decode(block).is_ok())
        });
        if !both_fine {
            return None;
        }
        let copy = env.rng.index(2);
        match env.rng.percent(50) {
            true => flip(env, inode, copy * BLOCK, 64),
            false => env.disk.make_unreadable(inode, copy * BLOCK),
        }
        env.note("damage to one header", &[inode, copy as u64]);
        return Some(Fault::RotOneFileHeader);
    }
    let from = needed_from(env);
    let spent: Vec<GroupFact> = env.history.groups.range(..from).map(|(_, fact)| fact.clone()).collect();
    let fact = env.rng.pick(&spent)?.clone();
    whole_group(env, &fact)?;
    let inode = env.disk.inode(&wal_name(fact.slot))?;
    flip(env, inode, fact.file_offset as usize, fact.len);
    env.note("damage below the checkpoint", &[inode, fact.file_offset]);
    Some(Fault::RotBelowCheckpoint)
}
