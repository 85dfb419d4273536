//! `recoup.v1.StreamRefundEventsResponse`, by hand: the same bytes on the wire as the generated
//! message, and an event of a hundred readers is encoded once and not a hundred times.

use ::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, bytes, message, skip_field};
use prost::{DecodeError, Message};

use super::v1::RefundEvent;

/// A line of the history.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamRefundEventsResponse {
    /// In the order of its sequence number.
    pub event: Option<RefundEvent>,
    /// In place of `event`, where it is about to be sent.
    encoded: Option<Bytes>,
}

/// Of `event`, in `proto/`.
const EVENT: u32 = 1;

impl StreamRefundEventsResponse {
    /// To be sent: an encoded [`RefundEvent`].
    pub(crate) fn encoded(event: Bytes) -> Self {
        Self { event: None, encoded: Some(event) }
    }
}

impl Message for StreamRefundEventsResponse {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if let Some(encoded) = &self.encoded {
            // On the wire, a message in a message and a field of bytes are the same.
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
    fn an_event_that_was_encoded_before_is_the_same_on_the_wire() {
        let event = RefundEvent { sequence: 7, note: "Recorded.".to_owned(), ..RefundEvent::default() };
        let whole = StreamRefundEventsResponse { event: Some(event.clone()), encoded: None };
        let before = StreamRefundEventsResponse::encoded(event.encode_to_vec().into());
        assert_eq!(whole.encode_to_vec(), before.encode_to_vec());
        assert_eq!(StreamRefundEventsResponse::decode(before.encode_to_vec().as_slice()).unwrap(), whole);
        let mut unknown = before.encode_to_vec();
        unknown.extend([0x10, 0x01]);
        assert_eq!(StreamRefundEventsResponse::decode(unknown.as_slice()).unwrap(), whole);
    }
}
