// The same calls from a page.

import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { authorize, failure, refund } from "./calls.js";

const transports = { connect: createConnectTransport, grpcWeb: createGrpcWebTransport };

globalThis.refundFromPage = ({ kind, baseUrl, token, refundId, order }) =>
  refund(transports[kind]({ baseUrl, interceptors: [authorize(token)] }), refundId, order);

globalThis.refusedFromPage = ({ kind, baseUrl, token, refundId, order }) =>
  failure(refund(transports[kind]({ baseUrl, interceptors: [authorize(token)] }), refundId, order));
