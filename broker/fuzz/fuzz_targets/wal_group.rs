//! A WAL file of arbitrary bytes: recovery must end, and must not panic, whatever it finds.

#![no_main]

use bytes::Bytes;
use chronik_core::ids::{DiskUuid, LeaderEpoch, TopicIdPartition, WalPosition};
use chronik_core::record_batch::BatchBuilder;
use chronik_core::store::checkpoint::Checkpoint;
use chronik_core::store::replay::Replay;
use chronik_core::wal::format::{
    BLOCK, Entry, EntryKind, FileHeader, Layout, decode_end_directory, decode_group,
};
use chronik_core::wal::recovery::{Event, Media, PlantedBugs, Unreadable, recover};
use chronik_fuzz::seeds;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write_all(seeds()), |data| run(data));

const GENERATION: u64 = 3;

fn seeds() -> Vec<Vec<u8>> {
    let tp = TopicIdPartition { topic_id: Default::default(), partition: 0 };
    let body = Bytes::from(BatchBuilder::new().record(5, None, Some(b"v")).build());
    let entry = |first| Entry {
        kind: EntryKind::Append,
        tp,
        first,
        last: first,
        leader_epoch: LeaderEpoch(1),
        records: 1,
        patch: true,
        body: body.clone(),
        profile: 0,
        client: (),
    };
    let mut file = Vec::new();
    for entries in [vec![entry(0), entry(1)], vec![], vec![entry(2)]] {
        let (layout, _) = Layout::plan(&entries);
        let mut out = vec![0; layout.group_len];
        let position = WalPosition(file.len() as u64);
        layout.encode(&entries, GENERATION, position, position, &mut out);
        file.extend(out);
    }
    vec![file]
}

struct Memory(Vec<u8>);

impl Media for Memory {
    fn files(&mut self) -> Vec<(u32, u64)> {
        vec![(0, self.0.len() as u64)]
    }
    fn read(&mut self, _: u32, at: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let from = (at as usize).min(self.0.len());
        let to = (from + buf.len()).min(self.0.len());
        buf.fill(0);
        buf[..to - from].copy_from_slice(&self.0[from..to]);
        Ok(())
    }
}

fn run(data: &[u8]) {
    let _ = decode_group(data);
    let _ = decode_end_directory(data);
    let _ = FileHeader::decode(data);
    let _ = Checkpoint::decode(data);
    let mut groups = data.to_vec();
    groups.resize(data.len().div_ceil(BLOCK) * BLOCK, 0);
    let file_bytes = (2 * BLOCK + groups.len()) as u64;
    let wal = DiskUuid::default();
    let (base, durable) = (WalPosition(0), WalPosition(0));
    let header =
        FileHeader { wal, generation: GENERATION, base, durable, file_bytes, previous: None }.encode();
    let mut file = [header.as_slice(), header.as_slice(), &groups].concat();
    file.truncate(file_bytes as usize);
    let mut replay = Replay::new(Checkpoint::default(), 100).expect("an empty checkpoint");
    let recovered =
        recover(&mut Memory(file), wal, Some(WalPosition(0)), PlantedBugs::default(), &mut |e| match e {
            Event::Group(group) => replay.group(&group, &mut |_| None),
            Event::Hole(hole) => replay.hole(hole),
        })
        .expect("the header is right");
    assert!(recovered.end.0 <= groups.len() as u64 || !recovered.holes.is_empty());
    replay.finish();
}
