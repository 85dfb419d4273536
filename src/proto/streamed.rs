//! A hand-written `recoup.v1.StreamRefundEventsResponse`. It has the same bytes on the wire as the
//! generated message, but its event can be encoded before, once for all readers.
//!
//! Encoding for each reader is too slow: without this type and the shared read of new events, 100
//! readers reduced the rate of CreateRefund to 0.56; the load benchmark requires 0.8
//! (`benches/load/streaming.rs`, docs/performance.md).

use ::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, bytes, message, skip_field};
use prost::{DecodeError, Message};

use super::v1::RefundEvent;

/// One event of the stream: `event` when received, `encoded` when sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamRefundEventsResponse {
    /// The event; messages are in the order of its sequence number.
    pub event: Option<RefundEvent>,
    /// The encoded event, used instead of `event` for sending.
    encoded: Option<Bytes>,
}

/// The tag of `event` in `proto/`.
const EVENT: u32 = 1;

impl StreamRefundEventsResponse {
    /// A message to send, from an encoded [`RefundEvent`].
    pub(crate) fn from_encoded(event: Bytes) -> Self {
        Self { event: None, encoded: Some(event) }
    }
}

impl Message for StreamRefundEventsResponse {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if let Some(encoded) = &self.encoded {
            // A nested message and a bytes field have the same wire format.
            bytes::encode(EVENT, encoded, buffer);
        } else if let Some(event) = &self.event {
            message::encode(EVENT, event, buffer);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            EVENT => message::merge(wire_type, self.event.get_or_insert_default(), buffer, context),
            _ => skip_field(wire_type, tag, buffer, context),
        }
    }

    fn encoded_len(&self) -> usize {
        match (&self.encoded, &self.event) {
            (Some(encoded), _) => bytes::encoded_len(EVENT, encoded),
            (None, Some(event)) => message::encoded_len(EVENT, event),
            (None, None) => 0,
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pre_encoded_event_is_identical_on_the_wire() {
        let event = RefundEvent { sequence: 7, note: "Recorded.".to_owned(), ..RefundEvent::default() };
        let plain = StreamRefundEventsResponse { event: Some(event.clone()), encoded: None };
        let encoded = StreamRefundEventsResponse::from_encoded(event.encode_to_vec().into());
        assert_eq!(plain.encode_to_vec(), encoded.encode_to_vec());
        assert_eq!(StreamRefundEventsResponse::decode(encoded.encode_to_vec().as_slice()).unwrap(), plain);
        let mut unknown = encoded.encode_to_vec();
        unknown.extend([0x10, 0x01]);
        assert_eq!(StreamRefundEventsResponse::decode(unknown.as_slice()).unwrap(), plain);
    }
}
