//! An API key, a version and a body, for every request: what the guard accepts must decode, from the same
//! bytes. The memory limit that libFuzzer keeps does the rest.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use chronik_broker::net::guard::{self, Limits};
use chronik_fuzz::every_request::{self, Row};
use chronik_fuzz::seeds;
use libfuzzer_sys::fuzz_target;

/// The rows by API key.
static ROWS: LazyLock<Vec<Option<Row>>> = LazyLock::new(|| {
    let mut by_key: Vec<Option<Row>> = std::iter::repeat_with(|| None).take(256).collect();
    for row in every_request::rows() {
        let key = usize::try_from(row.api_key).expect("API keys are not negative");
        by_key[key] = Some(row);
    }
    by_key
});

fuzz_target!(
    init: seeds::write(|row, version, body| [&[row.api_key as u8, version as u8], body].concat()),
    |data| run(data)
);

fn run(data: &[u8]) {
    let &[key, version, ref body @ ..] = data else { return };
    let limits = Limits { decoded_bytes_max: 16 << 20 };
    let (api_key, version) = (i16::from(key), i16::from(version.cast_signed()));
    let Ok(cost) = guard::check_body(api_key, version, body, &limits) else { return };
    let Some(row) = &ROWS[usize::from(key)] else { return };
    if version > row.versions.max {
        return;
    }
    let mut input = Bytes::copy_from_slice(body);
    if let Err(error) = (row.decode)(&mut input, version) {
        panic!("API {api_key} v{version}: the guard accepted what does not decode: {error}");
    }
    assert_eq!(body.len() - input.len(), cost.body_bytes, "API {api_key} v{version}");
}
