// recoup's gateway over TLS, with a token and a deadline on every call.

import { readFileSync } from "node:fs";
import { type Client, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ErrorInfoSchema } from "./generated/google/rpc/error_details_pb.js";
import { type Refund, type RefundEvent, SectigoRefundReason } from "./generated/recoup/v1/refund_pb.js";
import { RefundService } from "./generated/recoup/v1/refund_service_pb.js";
import { ValidationStatusService } from "./generated/recoup/v1/validation_status_service_pb.js";

export const SETTINGS = ["RECOUP_SERVER", "RECOUP_CA_FILE", "RECOUP_TOKEN_FILE"] as const;

// The gateway answers shortly before it, with the refund as it then is.
const DEADLINE_MS = 30_000;

export class Gateway {
  readonly #refunds: Client<typeof RefundService>;
  readonly #validation: Client<typeof ValidationStatusService>;

  private constructor(server: string, authority: string, token: string) {
    const authorize: Interceptor = (next) => (request) => {
      request.header.set("authorization", `Bearer ${token}`);
      return next(request);
    };
    const transport = createGrpcTransport({
      baseUrl: `https://${server}`,
      nodeOptions: { ca: authority },
      defaultTimeoutMs: DEADLINE_MS,
      interceptors: [authorize],
    });
    this.#refunds = createClient(RefundService, transport);
    this.#validation = createClient(ValidationStatusService, transport);
  }

  static fromEnvironment(): Gateway {
    const [server, authority, token] = SETTINGS.map((name) => process.env[name] ?? "") as [string, string, string];
    return new Gateway(server, readFileSync(authority, "utf8"), readFileSync(token, "utf8").trim());
  }

  createRefund(account: string, order: string, refundId: string) {
    const target = { orderNumber: order, reason: SectigoRefundReason.OTHER };
    return this.#refunds.createRefund({ refundId, account, target: { case: "sectigo", value: target } });
  }

  // Returns when the refund has changed, or shortly before the deadline.
  waitRefund(seen: Refund) {
    return this.#refunds.waitRefund({ name: seen.name, afterRevision: seen.revision });
  }

  async validationStatus(account: string, order: string) {
    const response = await this.#validation.getValidationStatus({ account, orderNumber: order });
    return response.validationStatus;
  }

  // The events of the ledger after the sequence, until the deadline.
  async *events(after: bigint, deadlineMs: number): AsyncGenerator<RefundEvent> {
    try {
      for await (const { event } of this.#refunds.streamRefundEvents({ afterSequence: after }, { timeoutMs: deadlineMs })) {
        if (event !== undefined) {
          yield event;
        }
      }
    } catch (error) {
      if (ConnectError.from(error).code !== Code.DeadlineExceeded) {
        throw error;
      }
    }
  }
}

// Whether the error leaves open what became of the refund, or passes by itself. Only an error with
// an ErrorInfo says that the call recorded nothing.
export function isUnanswered(error: ConnectError): boolean {
  const passes = error.code === Code.Unavailable || error.code === Code.DeadlineExceeded;
  return passes || error.findDetails(ErrorInfoSchema).length === 0;
}
