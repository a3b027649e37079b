//! An archive's bytes in and out of `Data` frames, without a copy of large contents.

use super::TransferError;
use crate::frame::{CHUNK, FrameError, FrameHeader, FrameType, HEADER_LEN, MAX_PAYLOAD};
use crate::{RequestError, TransferSummary};
use serde::Serialize;
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;

/// Collects bytes into frames of [`CHUNK`]. The frame's header has its room in front of the payload, so a frame is
/// one write.
pub(super) struct FrameWriter<W> {
    out: W,
    buffer: Box<[u8]>,
    filled: usize,
}

impl<W: Write> FrameWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, buffer: vec![0; HEADER_LEN + CHUNK].into_boxed_slice(), filled: HEADER_LEN }
    }

    /// Room for contents to be read straight into the next frame: never empty.
    pub(super) fn room(&mut self) -> io::Result<&mut [u8]> {
        if self.filled == self.buffer.len() {
            self.flush_frame()?;
        }
        Ok(&mut self.buffer[self.filled..])
    }

    /// Room for at least `bytes`, which is at most [`CHUNK`].
    pub(super) fn room_for(&mut self, bytes: usize) -> io::Result<&mut [u8]> {
        if self.buffer.len() - self.filled < bytes {
            self.flush_frame()?;
        }
        Ok(&mut self.buffer[self.filled..])
    }

    /// So many bytes of the room have been filled.
    pub(super) fn advance(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.buffer.len() - self.filled);
        self.filled += bytes;
    }

    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
            self.advance(n);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn flush_frame(&mut self) -> io::Result<()> {
        if self.filled > HEADER_LEN {
            let header = FrameHeader { kind: FrameType::Data, length: self.filled - HEADER_LEN };
            self.buffer[..HEADER_LEN].copy_from_slice(&header.to_bytes());
            self.out.write_all(&self.buffer[..self.filled])?;
            self.filled = HEADER_LEN;
        }
        Ok(())
    }

    /// Sends what is left, and `End`.
    pub(super) fn end(mut self, summary: &TransferSummary) -> io::Result<()> {
        self.flush_frame()?;
        write_json(&mut self.out, FrameType::End, summary)
    }

    /// Forgets what is left, and sends `Abort`.
    pub(super) fn abort(mut self, error: &RequestError) -> io::Result<()> {
        write_json(&mut self.out, FrameType::Abort, error)
    }
}

/// Writes one frame of JSON.
pub(super) fn write_json(out: &mut impl Write, kind: FrameType, message: &impl Serialize) -> io::Result<()> {
    let payload = serde_json::to_vec(message)?;
    let mut frame = Vec::new();
    crate::encode(kind, &payload, &mut frame).map_err(io::Error::other)?;
    out.write_all(&frame)?;
    out.flush()
}

/// How the frames ended.
#[derive(Debug, Default)]
pub(super) enum Ended {
    /// They go on.
    #[default]
    No,
    /// With `End`.
    Complete(TransferSummary),
    /// With `Abort`, broken frames, or a broken connection.
    Broken(TransferError),
}

/// The payload of `Data` frames as one stream that ends at `End`. How it ended is left in a cell, since the archive
/// reader on top of it passes on nothing but `io::Error`.
pub(super) struct FrameReader<R> {
    input: R,
    left: usize,
    ended: Rc<RefCell<Ended>>,
}

impl<R: Read> FrameReader<R> {
    pub(super) fn new(input: R) -> (Self, Rc<RefCell<Ended>>) {
        let ended = Rc::new(RefCell::new(Ended::No));
        (Self { input, left: 0, ended: Rc::clone(&ended) }, ended)
    }

    fn next_frame(&mut self) -> Result<Option<TransferSummary>, TransferError> {
        let mut header = [0; HEADER_LEN];
        self.input.read_exact(&mut header).map_err(TransferError::Connection)?;
        let header = FrameHeader::parse(header, MAX_PAYLOAD)
            .map_err(|error: FrameError| TransferError::Malformed(error.to_string()))?;
        match header.kind {
            FrameType::Data => {
                self.left = header.length;
                Ok(None)
            }
            FrameType::End => Ok(Some(self.json(header.length)?)),
            FrameType::Abort => Err(TransferError::Aborted(self.json(header.length)?)),
            other => Err(TransferError::Malformed(format!("unexpected {other:?} frame"))),
        }
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self, length: usize) -> Result<T, TransferError> {
        let mut payload = vec![0; length];
        self.input.read_exact(&mut payload).map_err(TransferError::Connection)?;
        serde_json::from_slice(&payload).map_err(|error| TransferError::Malformed(error.to_string()))
    }

    fn fail(&self, error: TransferError) -> io::Error {
        *self.ended.borrow_mut() = Ended::Broken(error);
        io::ErrorKind::InvalidData.into()
    }
}

impl<R: Read> Read for FrameReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.left == 0 {
            match &*self.ended.borrow() {
                Ended::No => {}
                Ended::Complete(_) => return Ok(0),
                Ended::Broken(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
            match self.next_frame() {
                Ok(None) => {}
                Ok(Some(summary)) => *self.ended.borrow_mut() = Ended::Complete(summary),
                Err(error) => return Err(self.fail(error)),
            }
        }
        let room = buffer.len().min(self.left);
        loop {
            return match self.input.read(&mut buffer[..room]) {
                Ok(0) => Err(self.fail(TransferError::Connection(io::ErrorKind::UnexpectedEof.into()))),
                Ok(n) => {
                    self.left -= n;
                    Ok(n)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(self.fail(TransferError::Connection(error))),
            };
        }
    }
}
