//! `seeds DIR`: writes a seed corpus for each target below DIR, so that none has to be committed.

#[path = "../../tests/every_request/mod.rs"]
mod every_request;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::BytesMut;
use chronik_broker::net::guard;
use every_request::wire::{self, Random};
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::{Encodable, StrBytes};

fn main() -> Result<()> {
    let corpora = std::env::args_os().nth(1).context("usage: seeds DIR")?;
    let corpora = Path::new(&corpora);
    fs::create_dir_all(corpora.join("guard"))?;
    fs::create_dir_all(corpora.join("frame"))?;
    let mut random = Random(4);
    for row in every_request::rows() {
        let request = guard::request(row.api_key)?;
        for version in row.versions.min..=row.versions.max {
            let name = format!("seed-{}-{version}", row.api_key);
            let body = wire::body(request, version, &mut random);
            let guard_input = [&[row.api_key as u8, version as u8], &body[..]].concat();
            fs::write(corpora.join("guard").join(&name), guard_input)?;

            let mut frame = BytesMut::new();
            RequestHeader::default()
                .with_request_api_key(row.api_key)
                .with_request_api_version(version)
                .with_client_id(Some(StrBytes::from_static_str("seed")))
                .encode(&mut frame, (row.header_version)(version))?;
            let size = (frame.len() as u32).to_be_bytes();
            fs::write(corpora.join("frame").join(&name), [&[9], &size[..], &frame[..]].concat())?;
        }
    }
    Ok(())
}
