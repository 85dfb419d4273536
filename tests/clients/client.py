"""A caller with a token over TLS: creates a refund, and is refused what its scopes do not include.

Usage: client.py SERVER CA_FILE TOKEN_FILE REFUND_ID ORDER_NUMBER
"""

import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from recoup.v1 import account_service_pb2, account_service_pb2_grpc
from recoup.v1 import refund_pb2, refund_service_pb2, refund_service_pb2_grpc


def reason(error):
    for detail in rpc_status.from_call(error).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""


def main():
    server, ca_file, token_file, refund_id, order_number = sys.argv[1:]
    with open(ca_file, "rb") as file:
        tls = grpc.ssl_channel_credentials(root_certificates=file.read())
    with open(token_file, encoding="ascii") as file:
        token = grpc.access_token_call_credentials(file.read().strip())
    with grpc.secure_channel(server, grpc.composite_channel_credentials(tls, token)) as channel:
        refunds = refund_service_pb2_grpc.RefundServiceStub(channel)
        request = refund_service_pb2.CreateRefundRequest(
            refund_id=refund_id,
            account="sectigo",
            sectigo=refund_pb2.SectigoTarget(order_number=order_number, reason=refund_pb2.SECTIGO_REFUND_REASON_OTHER),
        )
        refund = refunds.CreateRefund(request, timeout=30).refund
        assert refund.state == refund_pb2.Refund.STATE_SUCCEEDED, refund
        assert refund.created_by == "python", refund.created_by
        try:
            accounts = account_service_pb2_grpc.AccountServiceStub(channel)
            accounts.PauseAccount(account_service_pb2.PauseAccountRequest(account="sectigo", reason="x"), timeout=30)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
            assert reason(error) == "SCOPE_MISSING", reason(error)
        else:
            raise AssertionError("PauseAccount was not refused")
    with grpc.secure_channel(server, tls) as channel:
        try:
            refund_service_pb2_grpc.RefundServiceStub(channel).GetRefund(
                refund_service_pb2.GetRefundRequest(name=f"refunds/{refund_id}"), timeout=30
            )
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
            assert reason(error) == "CREDENTIALS_MISSING", reason(error)
        else:
            raise AssertionError("a call without a credential was not refused")
    print(f"python: {refund_id} created with a token over TLS, PauseAccount refused")


main()
