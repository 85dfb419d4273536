// What each client does, in Node and in a page: creates a refund, repeats it, is refused, and reads
// the reason and the history.

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { ErrorInfoSchema } from "./generated/google/rpc/error_details_pb.js";
import { Refund_State, SectigoRefundReason } from "./generated/recoup/v1/refund_pb.js";
import { RefundService } from "./generated/recoup/v1/refund_service_pb.js";

/** Shows the token with every call. */
export const authorize = (token) => (next) => (request) => {
  request.header.set("authorization", `Bearer ${token}`);
  return next(request);
};

/** Returns what was seen, as plain JSON. */
export async function refund(transport, refundId, order) {
  const client = createClient(RefundService, transport);
  const request = (id) => ({
    refundId: id,
    account: "sectigo",
    target: { case: "sectigo", value: { orderNumber: order, reason: SectigoRefundReason.OTHER } },
  });
  const created = await client.createRefund(request(refundId), { timeoutMs: 30_000 });
  const again = await client.createRefund(request(refundId));
  const refused = await failure(client.createRefund(request(`${refundId}-again`)));
  const sequences = [];
  for await (const { event } of client.streamRefundEvents({})) {
    if (event.refund === created.refund.name) {
      sequences.push(Number(event.sequence));
    }
    if (event.refund === created.refund.name && event.revision >= created.refund.revision) {
      break;
    }
  }
  return {
    state: Refund_State[created.refund.state],
    createdBy: created.refund.createdBy,
    replayed: again.replayed,
    refused,
    events: sequences.length,
  };
}

/** The code and reason of a call that is refused. */
export async function failure(call) {
  try {
    await call;
  } catch (error) {
    const failed = ConnectError.from(error);
    return { code: Code[failed.code], reason: failed.findDetails(ErrorInfoSchema)[0]?.reason };
  }
  throw new Error("the call was not refused");
}
