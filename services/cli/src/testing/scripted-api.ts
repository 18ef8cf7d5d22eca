/** A server that answers as a test says, on a real socket. Its calls are kept. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { ConnectRouter, Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { BadRequestSchema, ErrorInfoSchema } from "@bowline/contract/errors";

/** The token that it takes. */
export const goodToken = "bwt_00000000000000000000000000_good";

export type ScriptedApi = {
  url: string;
  /** `Service.Method` of each call, in order. */
  calls: string[];
  close(): Promise<void>;
};

/** Starts it. Other tokens than `goodToken` are UNAUTHENTICATED. */
export async function startScriptedApi(routes: (router: ConnectRouter) => void): Promise<ScriptedApi> {
  const calls: string[] = [];
  const guard: Interceptor = (next) => (request) => {
    calls.push(`${request.service.name}.${request.method.name}`);
    if (request.header.get("authorization") !== `Bearer ${goodToken}`)
      throw refusal(Code.Unauthenticated, "UNAUTHENTICATED", "the token is not known");
    return next(request);
  };
  const server = createServer(connectNodeAdapter({ routes, interceptors: [guard] }));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}

/** An error as the API says it. */
export function refusal(
  code: Code,
  reason: string,
  message: string,
  fields: Record<string, string> = {},
): ConnectError {
  const error = new ConnectError(message, code, { "x-request-id": "req_test" });
  error.details.push({ desc: ErrorInfoSchema, value: create(ErrorInfoSchema, { reason, domain: "bowline" }) });
  const fieldViolations = Object.entries(fields).map(([field, description]) => ({ field, description }));
  if (fieldViolations.length > 0)
    error.details.push({ desc: BadRequestSchema, value: create(BadRequestSchema, { fieldViolations }) });
  return error;
}
