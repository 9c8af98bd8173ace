//! Block-aligned buffers for `O_DIRECT`: where the one copy of the record bytes goes, and from where readers
//! of the log's tail are served.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use chronik_core::wal::format::BLOCK;

/// A buffer of whole blocks. The bytes it starts with are zero.
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
    /// Counts the bytes of all buffers that are still held by somebody: a slice keeps its whole buffer.
    charged: Option<Arc<AtomicUsize>>,
}

// SAFETY: the buffer owns its memory alone, like a Vec<u8>.
unsafe impl Send for AlignedBuf {}
// SAFETY: through a shared reference it can only be read.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A zeroed buffer; `len` is rounded up to whole blocks (at least one).
    pub fn new(len: usize, charged: Option<Arc<AtomicUsize>>) -> AlignedBuf {
        let len = len.max(1).div_ceil(BLOCK) * BLOCK;
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        // SAFETY: `start` is valid for `len` bytes. A group overwrites all of them, but they must be
        // initialised before a slice over them may exist.
        unsafe { start.write_bytes(0, len) };
        if let Some(charged) = &charged {
            charged.fetch_add(len, Ordering::Relaxed);
        }
        AlignedBuf { start, len, charged }
    }

    fn layout(len: usize) -> Layout {
        match Layout::from_size_align(len, BLOCK) {
            Ok(layout) => layout,
            Err(_) => handle_alloc_error(Layout::new::<[u8; BLOCK]>()),
        }
    }

    /// Hands the memory over to reference-counted slices.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Some(charged) = &self.charged {
            charged.fetch_sub(self.len, Ordering::Relaxed);
        }
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: valid and initialised for `len` bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl AsMut<[u8]> for AlignedBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: valid and initialised for `len` bytes, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

// SAFETY: the memory is on the heap and stays where it is when the value moves.
unsafe impl tokio_uring::buf::IoBuf for AlignedBuf {
    fn stable_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }
    fn bytes_init(&self) -> usize {
        self.len
    }
    fn bytes_total(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_keeps_the_whole_buffer_charged() {
        let charged = Arc::new(AtomicUsize::new(0));
        let mut buf = AlignedBuf::new(5000, Some(charged.clone()));
        assert_eq!((buf.as_ref().len(), buf.as_ref().as_ptr() as usize % BLOCK), (8192, 0));
        buf.as_mut()[4999] = 7;
        let all = buf.into_bytes();
        let slice = all.slice(4990..5000);
        drop(all);
        assert_eq!((charged.load(Ordering::Relaxed), slice[9]), (8192, 7));
        drop(slice);
        assert_eq!(charged.load(Ordering::Relaxed), 0);
    }
}
