//! Length-prefixed frames on WebTransport streams: a QUIC variable-length integer (RFC 9000,
//! section 16) with the payload's length, then the payload.

use bytes::{BufMut, Bytes, BytesMut};

/// The most bytes a prefix takes.
pub const PREFIX_BYTES_MAX: usize = 8;

/// A frame announced more bytes than a message may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {announced} bytes exceeds the limit of {limit}")]
pub struct FrameTooLarge {
    /// The length in the prefix.
    pub announced: u64,
    /// The limit.
    pub limit: usize,
}

/// Appends the shortest prefix for a payload of `len` bytes.
pub fn put_prefix(out: &mut BytesMut, len: usize) {
    let len = len as u64;
    match len {
        0..0x40 => out.put_u8(len as u8),
        0x40..0x4000 => out.put_u16(0x4000 | len as u16),
        0x4000..0x4000_0000 => out.put_u32(0x8000_0000 | len as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | len),
    }
}

/// Reads a prefix of any valid length: the payload's length and the prefix's own, or `None`
/// if `bytes` ends before the prefix does.
pub fn read_prefix(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let size = 1_usize << (first >> 6);
    let prefix = bytes.get(..size)?;
    let rest = prefix[1..].iter().fold(u64::from(first & 0x3f), |n, b| n << 8 | u64::from(*b));
    Some((rest, size))
}

/// One encoded message, ready for either transport: cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Prefix and payload, one behind the other.
    bytes: Bytes,
    prefix: u8,
}

impl Frame {
    /// Has `write` append the payload to a buffer and puts the prefix before it, in one
    /// allocation if the payload has no more than `expected` bytes.
    pub fn build<E>(
        expected: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Frame, E> {
        let mut buffer = Vec::with_capacity(PREFIX_BYTES_MAX + expected);
        buffer.put_bytes(0, PREFIX_BYTES_MAX);
        write(&mut buffer)?;
        let mut prefix = BytesMut::with_capacity(PREFIX_BYTES_MAX);
        put_prefix(&mut prefix, buffer.len() - PREFIX_BYTES_MAX);
        let unused = PREFIX_BYTES_MAX - prefix.len();
        buffer[unused..PREFIX_BYTES_MAX].copy_from_slice(&prefix);
        Ok(Frame { bytes: Bytes::from(buffer).slice(unused..), prefix: prefix.len() as u8 })
    }

    /// The message alone: a WebSocket message or a datagram.
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(usize::from(self.prefix)..)
    }

    /// Prefix and message: what goes on a WebTransport stream.
    pub fn prefixed(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Bytes of the message alone.
    pub fn len(&self) -> usize {
        self.bytes.len() - usize::from(self.prefix)
    }

    /// Whether the message has no bytes, which no codec produces.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Cuts a byte stream into frames. Feed it with [`FrameReader::buffer`], then drain
/// [`FrameReader::next_frame`].
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    limit: usize,
}

impl FrameReader {
    /// A reader that refuses frames of more than `limit` bytes before it has buffered them.
    pub fn new(limit: usize) -> Self {
        FrameReader { buffer: BytesMut::new(), limit }
    }

    /// Refuses frames of more than `limit` bytes from now on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Bytes of frames that have not been drained.
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// Where received bytes go.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole frame's payload.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameTooLarge> {
        let Some((announced, prefix)) = read_prefix(&self.buffer) else { return Ok(None) };
        let len = match usize::try_from(announced) {
            Ok(len) if len <= self.limit => len,
            _ => return Err(FrameTooLarge { announced, limit: self.limit }),
        };
        if self.buffer.len() < prefix + len {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(prefix + len);
        Ok(Some(frame.split_off(prefix).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_match_rfc_9000() {
        // The examples of RFC 9000, appendix A.1.
        for (bytes, value) in [
            (&[0x25][..], 37),
            (&[0x7b, 0xbd], 15_293),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(read_prefix(bytes), Some((value, bytes.len())));
            assert_eq!(read_prefix(&bytes[..bytes.len() - 1]), None);
        }
        for len in [0, 63, 64, 16_383, 16_384, 1 << 30] {
            let mut out = BytesMut::new();
            put_prefix(&mut out, len);
            assert_eq!(read_prefix(&out), Some((len as u64, out.len())));
        }
    }

    #[test]
    fn frames_come_whole_however_they_are_split() {
        let mut wire = BytesMut::new();
        let payloads: [&[u8]; 4] = [b"one", b"", &[7; 100], b"last"];
        for payload in payloads {
            put_prefix(&mut wire, payload.len());
            wire.extend_from_slice(payload);
        }
        for step in 1..wire.len() {
            let mut reader = FrameReader::new(100);
            let mut seen = Vec::new();
            for chunk in wire.chunks(step) {
                reader.buffer().extend_from_slice(chunk);
                while let Some(frame) = reader.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, payloads, "in steps of {step}");
        }
    }

    #[test]
    fn a_built_frame_reads_back() {
        for len in [0, 63, 64, 16_384] {
            let frame = Frame::build(len, |out| {
                out.put_bytes(9, len);
                Ok::<_, std::convert::Infallible>(())
            })
            .unwrap();
            let mut reader = FrameReader::new(len);
            reader.buffer().extend_from_slice(&frame.prefixed());
            assert_eq!(reader.next_frame().unwrap().unwrap(), frame.payload());
            assert_eq!(frame.len(), len);
        }
    }

    #[test]
    fn too_long_a_frame_is_refused_by_its_prefix_alone() {
        let mut reader = FrameReader::new(100);
        put_prefix(reader.buffer(), 101);
        assert_eq!(reader.next_frame(), Err(FrameTooLarge { announced: 101, limit: 100 }));
    }
}
