//! Kafka's framing: an int32 size, then as many bytes.
//!
//! Splitting is apart from reading, so that it can be tested and fuzzed: the connection reads into a
//! [`BytesMut`] whose growth [`FrameSplitter::reserve`] decides, and takes whole frames out with
//! [`FrameSplitter::next_frame`]. A size that a client claims never allocates anything: the buffer grows only
//! as bytes arrive.

use bytes::{Buf, Bytes, BytesMut};

/// What a read buffer starts with, in bytes.
pub const READ_BUFFER_MIN: usize = 8 * 1024;

/// A buffer with less room than this, in bytes, is grown before the next read: smaller reads would cost more
/// in system calls than the copy costs.
const ROOM_MIN: usize = 1024;

const SIZE_LEN: usize = 4;

/// A frame that no client may send. The connection cannot be used after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of negative size {size}")]
    Negative { size: i32 },
    #[error("a frame of {size} bytes is over socket.request.max.bytes ({max})")]
    TooLarge { size: usize, max: usize },
}

/// Splits a connection's bytes into frames.
#[derive(Debug, Clone, Copy)]
pub struct FrameSplitter {
    frame_bytes_max: usize,
}

impl FrameSplitter {
    /// Frames may have at most `frame_bytes_max` bytes (`socket.request.max.bytes`), the size not counted.
    pub fn new(frame_bytes_max: usize) -> FrameSplitter {
        FrameSplitter { frame_bytes_max }
    }

    /// Takes the next whole frame, without its size, from the front of `buffer`; `None` if more bytes must
    /// arrive first. A frame shares the buffer's memory. After an error the buffer is as it was.
    pub fn next_frame(&self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let Some(size) = self.size(buffer)? else { return Ok(None) };
        if buffer.len() - SIZE_LEN < size {
            return Ok(None);
        }
        buffer.advance(SIZE_LEN);
        Ok(Some(buffer.split_to(size).freeze()))
    }

    /// Makes room for the next read. A nearly full buffer gets room for at most as many bytes as it already
    /// holds (or [`READ_BUFFER_MIN`]), and for no more than its unfinished frame lacks.
    pub fn reserve(&self, buffer: &mut BytesMut) -> Result<(), FrameError> {
        let lacking = match self.size(buffer)? {
            Some(size) => (size + SIZE_LEN).saturating_sub(buffer.len()).max(ROOM_MIN),
            None => READ_BUFFER_MIN,
        };
        if buffer.capacity() - buffer.len() < lacking.min(ROOM_MIN) {
            buffer.reserve(lacking.min(buffer.len().max(READ_BUFFER_MIN)));
        }
        Ok(())
    }

    /// The size of the frame at the front, if its four bytes are there.
    fn size(&self, buffer: &BytesMut) -> Result<Option<usize>, FrameError> {
        let Some(&prefix) = buffer.first_chunk::<SIZE_LEN>() else { return Ok(None) };
        let claimed = i32::from_be_bytes(prefix);
        let size = usize::try_from(claimed).map_err(|_| FrameError::Negative { size: claimed })?;
        if size > self.frame_bytes_max {
            return Err(FrameError::TooLarge { size, max: self.frame_bytes_max });
        }
        Ok(Some(size))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut wire = Vec::new();
        for frame in frames {
            wire.extend_from_slice(&(frame.len() as i32).to_be_bytes());
            wire.extend_from_slice(frame);
        }
        wire
    }

    proptest! {
        /// However the bytes are cut into reads, the frames that come out are those that went in.
        #[test]
        fn frames_survive_any_fragmentation(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..8),
            cuts in prop::collection::vec(1usize..3000, 1..20),
        ) {
            let splitter = FrameSplitter::new(5000);
            let wire = framed(&frames);
            let (mut buffer, mut out, mut rest) = (BytesMut::new(), Vec::new(), &wire[..]);
            for cut in cuts.iter().cycle() {
                splitter.reserve(&mut buffer).unwrap();
                let room = buffer.capacity() - buffer.len();
                prop_assert!(room > 0, "no room to read into");
                let (read, later) = rest.split_at((*cut).min(rest.len()).min(room));
                buffer.extend_from_slice(read);
                rest = later;
                while let Some(frame) = splitter.next_frame(&mut buffer).unwrap() {
                    out.push(frame.to_vec());
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(out, frames);
            prop_assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_partial_frame_waits() {
        let splitter = FrameSplitter::new(10);
        let mut buffer = BytesMut::from(&[0, 0, 0][..]);
        assert_eq!(splitter.next_frame(&mut buffer), Ok(None));
        buffer.extend_from_slice(&[2, 7]);
        assert_eq!(splitter.next_frame(&mut buffer), Ok(None));
        buffer.extend_from_slice(&[8, 9]);
        assert_eq!(splitter.next_frame(&mut buffer), Ok(Some(Bytes::from_static(&[7, 8]))));
        assert_eq!(&buffer[..], [9]);
    }

    #[test]
    fn sizes_out_of_range_are_refused_at_once() {
        let splitter = FrameSplitter::new(10);
        let mut negative = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        assert_eq!(splitter.next_frame(&mut negative), Err(FrameError::Negative { size: -1 }));
        let mut large = BytesMut::from(&[0, 0, 0, 11][..]);
        assert_eq!(splitter.next_frame(&mut large), Err(FrameError::TooLarge { size: 11, max: 10 }));
        assert_eq!(splitter.reserve(&mut large), Err(FrameError::TooLarge { size: 11, max: 10 }));
    }

    /// A client that announces 100 MB and sends little of it holds little memory.
    #[test]
    fn the_buffer_grows_with_what_arrives() {
        let splitter = FrameSplitter::new(100 << 20);
        let mut buffer = BytesMut::new();
        buffer.extend_from_slice(&(100_i32 << 20).to_be_bytes());
        for _ in 0..5000 {
            splitter.reserve(&mut buffer).unwrap();
            assert!(buffer.capacity() <= 2 * buffer.len() + READ_BUFFER_MIN + ROOM_MIN);
            buffer.extend_from_slice(&[7; 300]);
            assert_eq!(splitter.next_frame(&mut buffer), Ok(None));
        }
    }
}
