//! The decoders and the frame reader, given anything.

use bytes::Bytes;
use handover_protocol::wire::frame::{FrameReader, FrameTooLarge};
use handover_protocol::wire::message::Quality;
use handover_protocol::wire::{ClientMessage, Codec, ServerMessage};

/// Frames of more are refused.
const FRAME_MAX: usize = 4_096;

/// The first byte says how the rest is cut for the frame reader; the rest is a payload and, to
/// the frame reader, a stream.
pub fn run(input: &[u8]) {
    let Some((&step, payload)) = input.split_first() else { return };
    for codec in Codec::ALL {
        if let Ok(message) = codec.decode_client(payload) {
            client(&message);
        }
        if let Ok(message) = codec.decode_server(payload) {
            server(codec, &message);
        }
    }
    let (frames, end) = read(payload, payload.len().max(1));
    assert_eq!(read(payload, usize::from(step) + 1), (frames, end), "however it is split");
}

/// What was accepted has an encoding in either codec that is read as the same.
fn client(message: &ClientMessage) {
    for codec in Codec::ALL {
        let again = codec.encode_client(message).payload();
        assert_eq!(codec.decode_client(&again).as_ref(), Ok(message), "{codec:?}");
    }
}

fn server(from: Codec, message: &ServerMessage) {
    // bincode carries any number as a measure, JSON has no form for some; a gateway sends none
    // of those.
    if let ServerMessage::Quality(Quality { rtt, jitter, loss, .. }) = message
        && !(rtt.is_finite() && jitter.is_finite() && loss.is_finite())
    {
        assert_eq!(from, Codec::Bincode);
        return;
    }
    for codec in Codec::ALL {
        let again = codec.encode_server(message).payload();
        assert_eq!(codec.decode_server(&again).as_ref(), Ok(message), "{codec:?}");
    }
}

/// Every frame of a stream that comes in pieces of `step` bytes, and how it ended.
fn read(stream: &[u8], step: usize) -> (Vec<Bytes>, Option<FrameTooLarge>) {
    let mut reader = FrameReader::new(FRAME_MAX);
    let mut frames = Vec::new();
    for piece in stream.chunks(step) {
        reader.buffer().extend_from_slice(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.len() <= FRAME_MAX);
                    frames.push(frame);
                }
                Ok(None) => break,
                Err(refused) => return (frames, Some(refused)),
            }
        }
    }
    (frames, None)
}
