//! A non-blocking socket of the generator or the floor, with the bytes that wait on both sides.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

/// The largest frame that is taken, in bytes, and so the most the input buffer grows to.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
    /// Where the first unread frame begins.
    read_at: usize,
    /// Where the received bytes end.
    filled: usize,
    output: Vec<u8>,
    written: usize,
}

impl Wire {
    /// Takes a connected socket over.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    pub fn new(stream: TcpStream, input_bytes: usize) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            input: vec![0; input_bytes],
            read_at: 0,
            filled: 0,
            output: Vec::new(),
            written: 0,
        })
    }

    /// The socket, to be watched.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether bytes wait for the socket to take them.
    pub fn is_blocked(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends a frame: at once as far as the socket takes it, the rest by [`flush`](Self::flush).
    ///
    /// # Errors
    /// The connection's.
    pub fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let mut rest = frame;
        while !self.is_blocked() && !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.extend_from_slice(rest);
        Ok(())
    }

    /// Sends what waits, as far as the socket takes it.
    ///
    /// # Errors
    /// The connection's.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads once: one system call per readiness, since the watch is level-triggered.
    ///
    /// # Errors
    /// The connection's; `UnexpectedEof` when the other side closed it.
    pub fn receive(&mut self) -> io::Result<()> {
        if self.read_at > 0 {
            self.input.copy_within(self.read_at..self.filled, 0);
            self.filled -= self.read_at;
            self.read_at = 0;
        }
        if self.filled == self.input.len() {
            // A frame larger than the buffer: grow by doubling, as its bytes arrive.
            self.input.resize((self.filled * 2).max(4096), 0);
        }
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => {
                self.filled += bytes;
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next whole frame, without its length.
    ///
    /// # Errors
    /// `InvalidData` for a length no frame has.
    pub fn next_frame(&mut self) -> io::Result<Option<&[u8]>> {
        let received = &self.input[self.read_at..self.filled];
        let Some((length, rest)) = received.split_first_chunk() else { return Ok(None) };
        let length = i32::from_be_bytes(*length);
        let length = usize::try_from(length)
            .ok()
            .filter(|n| *n <= FRAME_BYTES_MAX)
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("a frame of {length} bytes")))?;
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        self.read_at += 4 + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, Wire) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, Wire::new(listener.accept().unwrap().0, 16).unwrap())
    }

    /// Reads until a frame is whole, at most until the other side has closed.
    fn frame(wire: &mut Wire) -> io::Result<Vec<u8>> {
        loop {
            if let Some(frame) = wire.next_frame()? {
                return Ok(frame.to_vec());
            }
            wire.receive()?;
            std::thread::yield_now();
        }
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let (mut near, mut wire) = pair();
        let long = [0, 0, 1, 0].into_iter().chain([8; 256]).collect::<Vec<u8>>();
        near.write_all(&[0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(frame(&mut wire).unwrap(), [1, 2]);
        assert!(frame(&mut wire).unwrap().is_empty());
        near.write_all(&long[2..]).unwrap();
        drop(near);
        assert_eq!(frame(&mut wire).unwrap(), [8; 256]);
        assert_eq!(frame(&mut wire).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_the_socket_does_not_take_waits() {
        let (mut near, mut wire) = pair();
        let big = vec![5; 8 << 20];
        wire.send(&big).unwrap();
        assert!(wire.is_blocked());
        wire.send(&[6]).unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            near.read_to_end(&mut all).unwrap();
            all
        });
        while wire.is_blocked() {
            wire.flush().unwrap();
            std::thread::yield_now();
        }
        drop(wire);
        let all = reader.join().unwrap();
        assert_eq!((all.len(), all.last()), (big.len() + 1, Some(&6)));
    }

    #[test]
    fn an_absurd_length_is_an_error() {
        let (mut near, mut wire) = pair();
        near.write_all(b"HTTP/1.1").unwrap();
        assert_eq!(frame(&mut wire).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
