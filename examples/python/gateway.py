"""recoup's gateway over TLS, with a token and a deadline on every call."""

import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Self

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE / "generated"))

from recoup.v1 import refund_pb2, refund_service_pb2, refund_service_pb2_grpc
from recoup.v1 import validation_status_pb2, validation_status_service_pb2, validation_status_service_pb2_grpc

SETTINGS = ("RECOUP_SERVER", "RECOUP_CA_FILE", "RECOUP_TOKEN_FILE")

# In seconds. The gateway answers shortly before it, with the refund as it then is.
DEADLINE = 30


class Gateway:
    def __init__(self, server: str, authority: bytes, token: str) -> None:
        credentials = grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(authority), grpc.access_token_call_credentials(token)
        )
        service_config = (HERE / "../service_config.json").read_text()
        self._channel = grpc.secure_channel(server, credentials, [("grpc.service_config", service_config)])
        self._refunds = refund_service_pb2_grpc.RefundServiceStub(self._channel)
        self._validation = validation_status_service_pb2_grpc.ValidationStatusServiceStub(self._channel)

    @classmethod
    def from_environment(cls) -> Self:
        server, ca_file, token_file = (os.environ[name] for name in SETTINGS)
        return cls(server, pathlib.Path(ca_file).read_bytes(), pathlib.Path(token_file).read_text().strip())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def create_refund(self, account: str, order: str, refund_id: str) -> refund_service_pb2.CreateRefundResponse:
        target = refund_pb2.SectigoTarget(
            order_number=order, reason=refund_pb2.SECTIGO_REFUND_REASON_OTHER
        )
        request = refund_service_pb2.CreateRefundRequest(refund_id=refund_id, account=account, sectigo=target)
        return self._refunds.CreateRefund(request, timeout=DEADLINE)

    def wait_refund(self, seen: refund_pb2.Refund) -> refund_service_pb2.WaitRefundResponse:
        """Returns when the refund has changed, or shortly before the deadline."""
        request = refund_service_pb2.WaitRefundRequest(name=seen.name, after_revision=seen.revision)
        return self._refunds.WaitRefund(request, timeout=DEADLINE)

    def validation_status(self, account: str, order: str) -> validation_status_pb2.ValidationStatus:
        request = validation_status_service_pb2.GetValidationStatusRequest(account=account, order_number=order)
        return self._validation.GetValidationStatus(request, timeout=DEADLINE).validation_status

    def events(self, after: int, deadline: float) -> Iterator[refund_pb2.RefundEvent]:
        """The events of the ledger after the sequence, until the deadline."""
        request = refund_service_pb2.StreamRefundEventsRequest(after_sequence=after)
        call = self._refunds.StreamRefundEvents(request, timeout=deadline)
        try:
            for response in call:
                yield response.event
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
        finally:
            call.cancel()


def is_unanswered(error: grpc.RpcError) -> bool:
    """Whether the error leaves open what became of the refund, or passes by itself. Only an error
    with an ErrorInfo says that the call recorded nothing."""
    passing = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return error.code() in passing or detail(error, ErrorInfo) is None


def detail(error: grpc.RpcError, kind: type):
    """The error's detail of this type, or None."""
    status = rpc_status.from_call(error)
    for packed in status.details if status is not None else ():
        if packed.Is(kind.DESCRIPTOR):
            message = kind()
            packed.Unpack(message)
            return message
    return None
