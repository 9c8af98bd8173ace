//! Undoing the compression of a record batch, under a cap, so that a few kilobytes from a
//! hostile server cannot fill the memory.

use std::io::{self, Read, Write};

use bytes::Bytes;

use crate::batch::header;

/// The most one batch may become when decompressed, in bytes.
pub const DECOMPRESSED_BYTES_MAX: u64 = 256 << 20;

/// Kafka's Java client frames snappy blocks with this header (xerial's format); librdkafka and
/// others send one bare block.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// A codec of Kafka's, by its number in a batch's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

impl Codec {
    /// The codec that a batch's attributes name.
    ///
    /// # Errors
    /// `InvalidData` for one that does not exist.
    pub fn of(attributes: i16) -> io::Result<Codec> {
        match attributes & CODEC_BITS {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Gzip),
            2 => Ok(Codec::Snappy),
            3 => Ok(Codec::Lz4),
            4 => Ok(Codec::Zstd),
            other => Err(invalid(format!("unknown compression {other}"))),
        }
    }

    /// Compresses a batch's records as Kafka's clients do: snappy in xerial's frame, the others in their own.
    ///
    /// # Errors
    /// The encoder's.
    pub fn compress(self, records: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Codec::None => Ok(records.to_vec()),
            Codec::Gzip => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                gzip.write_all(records)?;
                gzip.finish()
            }
            Codec::Snappy => {
                let mut out = [XERIAL_MAGIC, &1u32.to_be_bytes(), &1u32.to_be_bytes()].concat();
                for block in records.chunks(XERIAL_BLOCK_BYTES) {
                    let block = snap::raw::Encoder::new().compress_vec(block).map_err(io::Error::other)?;
                    out.extend_from_slice(&(block.len() as u32).to_be_bytes());
                    out.extend_from_slice(&block);
                }
                Ok(out)
            }
            Codec::Lz4 => {
                let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
                lz4.write_all(records)?;
                lz4.finish().map_err(io::Error::other)
            }
            Codec::Zstd => zstd::encode_all(records, 0),
        }
    }
}

/// The bytes of a batch's records, decompressed as the batch's attributes say.
///
/// # Errors
/// `InvalidData` for an unknown codec, broken input, or more than the cap.
pub fn decompress(attributes: i16, data: &Bytes) -> io::Result<Bytes> {
    match Codec::of(attributes)? {
        Codec::None => Ok(data.clone()),
        Codec::Gzip => drain(flate2::read::MultiGzDecoder::new(data.as_ref())),
        Codec::Snappy => unsnap(data),
        Codec::Lz4 => drain(lz4_flex::frame::FrameDecoder::new(data.as_ref())),
        Codec::Zstd => drain(zstd::stream::read::Decoder::new(data.as_ref())?),
    }
}

/// The same batch without compression, so that any reader of plain batches can walk its records. Its checksum
/// is not that of its bytes any more.
///
/// # Errors
/// As [`decompress`], and `InvalidData` when `batch` is no whole v2 batch.
pub fn opened(batch: &Bytes) -> io::Result<Vec<u8>> {
    let cut_short = || invalid("a batch cut short");
    let head = batch.get(..header::BYTES).ok_or_else(cut_short)?;
    if head[header::MAGIC] != 2 {
        return Err(invalid(format!("a batch of magic {}", head[header::MAGIC].cast_signed())));
    }
    let length = i32::from_be_bytes([0, 1, 2, 3].map(|n| head[header::LENGTH + n]));
    let end = usize::try_from(length).map_err(|_| cut_short())?.saturating_add(LENGTH_COUNTS_FROM);
    if batch.len() < end || end < header::BYTES {
        return Err(cut_short());
    }
    let attributes = i16::from_be_bytes([head[header::ATTRIBUTES], head[header::ATTRIBUTES + 1]]);
    let records = decompress(attributes, &batch.slice(header::BYTES..end))?;
    let mut out = Vec::with_capacity(header::BYTES + records.len());
    out.extend_from_slice(head);
    out.extend_from_slice(&records);
    let length = (out.len() - LENGTH_COUNTS_FROM) as i32;
    out[header::LENGTH..header::MAGIC - 4].copy_from_slice(&length.to_be_bytes());
    let attributes = attributes & !CODEC_BITS;
    out[header::ATTRIBUTES..header::LAST_OFFSET_DELTA].copy_from_slice(&attributes.to_be_bytes());
    Ok(out)
}

const CODEC_BITS: i16 = 0x7;
/// The length field does not count itself and what is before it.
const LENGTH_COUNTS_FROM: usize = header::LENGTH + 4;

fn drain(decoder: impl Read) -> io::Result<Bytes> {
    let mut out = Vec::new();
    decoder.take(DECOMPRESSED_BYTES_MAX + 1).read_to_end(&mut out)?;
    within_cap(out.len())?;
    Ok(out.into())
}

fn unsnap(data: &[u8]) -> io::Result<Bytes> {
    if !data.starts_with(XERIAL_MAGIC) {
        return Ok(unsnap_block(data)?.into());
    }
    let mut rest = data.get(XERIAL_HEADER_BYTES..).ok_or_else(|| invalid("short snappy header"))?;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk().ok_or_else(|| invalid("short snappy block"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, after) = after.split_at_checked(length).ok_or_else(|| invalid("short snappy block"))?;
        let block = unsnap_block(block)?;
        within_cap(out.len().saturating_add(block.len()))?;
        out.extend_from_slice(&block);
        rest = after;
    }
    Ok(out.into())
}

fn unsnap_block(block: &[u8]) -> io::Result<Vec<u8>> {
    // The decoder allocates what the block claims: look at the claim first.
    within_cap(snap::raw::decompress_len(block).map_err(io::Error::other)?)?;
    snap::raw::Decoder::new().decompress_vec(block).map_err(io::Error::other)
}

fn within_cap(bytes: usize) -> io::Result<()> {
    if bytes as u64 > DECOMPRESSED_BYTES_MAX {
        return Err(invalid(format!("a batch of more than {DECOMPRESSED_BYTES_MAX} bytes decompressed")));
    }
    Ok(())
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, NewRecord};

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap()
    }

    fn text() -> Vec<u8> {
        (0..20_000u32).flat_map(|n| (n / 7).to_string().into_bytes()).collect()
    }

    /// The text under each codec, the snappy one bare and in xerial's frame.
    fn packed() -> Vec<(i16, Vec<u8>)> {
        let text = text();
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(&text).unwrap();
        let mut xerial = [XERIAL_MAGIC, &1u32.to_be_bytes(), &1u32.to_be_bytes()].concat();
        for block in text.chunks(30_000) {
            let block = snap::raw::Encoder::new().compress_vec(block).unwrap();
            xerial.extend_from_slice(&(block.len() as u32).to_be_bytes());
            xerial.extend_from_slice(&block);
        }
        vec![
            (0, text.clone()),
            (1, gzip(&text)),
            (2, snap::raw::Encoder::new().compress_vec(&text).unwrap()),
            (2, xerial),
            (3, lz4.finish().unwrap()),
            (4, zstd::encode_all(text.as_slice(), 1).unwrap()),
        ]
    }

    #[test]
    fn every_codec_gives_the_bytes_back() {
        for (codec, packed) in packed() {
            assert_eq!(decompress(codec, &packed.into()).unwrap(), text(), "codec {codec}");
        }
    }

    #[test]
    fn what_is_compressed_here_reads_back() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let packed = codec.compress(&text()).unwrap();
            assert_eq!(Codec::of(0x30 | codec as i16).unwrap(), codec);
            assert_eq!(decompress(codec as i16, &packed.into()).unwrap(), text(), "{codec:?}");
        }
        assert!(Codec::of(5).is_err());
    }

    #[test]
    fn what_is_cut_or_unknown_is_an_error() {
        for (codec, packed) in packed().into_iter().filter(|(codec, _)| *codec != 0) {
            let cut = Bytes::from(packed).split_to(40);
            assert!(decompress(codec, &cut).is_err(), "codec {codec}");
        }
        assert!(decompress(5, &Bytes::from_static(b"x")).is_err());
    }

    #[test]
    fn an_opened_batch_reads_as_the_plain_one_does() {
        let mut plain = BatchBuilder::new();
        plain.push(NewRecord { timestamp: 5, key: Some(b"k"), value: Some(&[b'v'; 500]), headers: &[] });
        let plain = plain.build();
        for (codec, pack) in
            [(1u8, gzip as fn(&[u8]) -> Vec<u8>), (4, |text| zstd::encode_all(text, 1).unwrap())]
        {
            let mut packed = plain[..header::BYTES].to_vec();
            packed.extend_from_slice(&pack(&plain[header::BYTES..]));
            let length = (packed.len() - LENGTH_COUNTS_FROM) as i32;
            packed[header::LENGTH..header::LENGTH + 4].copy_from_slice(&length.to_be_bytes());
            packed[header::ATTRIBUTES + 1] = codec;
            let packed = Bytes::from(packed);
            assert_eq!(opened(&packed).unwrap(), plain, "codec {codec}");
            for cut in 0..packed.len() {
                assert!(opened(&packed.slice(..cut)).is_err(), "codec {codec} cut at {cut}");
            }
        }
        let mut old = plain.to_vec();
        old[header::MAGIC] = 1;
        assert!(opened(&old.into()).is_err());
        let mut negative = plain.to_vec();
        negative[header::LENGTH] = 0xff;
        assert!(opened(&negative.into()).is_err());
    }

    #[test]
    fn a_bomb_is_stopped_at_the_cap() {
        let zeros = io::repeat(0).take(DECOMPRESSED_BYTES_MAX + 10);
        let bomb = zstd::encode_all(zeros, 1).unwrap();
        assert!(decompress(4, &bomb.into()).is_err());
        // Five bytes that claim 4 GiB.
        assert!(decompress(2, &Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f])).is_err());
    }
}
