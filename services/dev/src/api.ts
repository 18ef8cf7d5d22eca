/** The server's API, as `npm start` uses it. */
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import type { Client, Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { AgentsService } from "@bowline/contract/agents";
import { ClusterService, RegistrationTokenService } from "@bowline/contract/clusters";
import { AuthService } from "@bowline/contract/identity";
import { GatewayService, ProductPublishService, ProductService } from "@bowline/contract/products";
import { BadRequestSchema, ErrorInfoSchema } from "@bowline/contract/errors";

/** A local server answers in milliseconds; a cold machine needs a little more. */
const callTimeoutMs = 15_000;

/** A stream has no limit of its own; its reader's signal ends it. */
export const unlimited = 0;

export type Api = {
  url: string;
  agents: Client<typeof AgentsService>;
  auth: Client<typeof AuthService>;
  clusters: Client<typeof ClusterService>;
  gateways: Client<typeof GatewayService>;
  products: Client<typeof ProductService>;
  publishes: Client<typeof ProductPublishService>;
  tokens: Client<typeof RegistrationTokenService>;
};

export function openApi(url: string, token: string, signal: AbortSignal): Api {
  const interceptor: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next({ ...request, signal: AbortSignal.any([request.signal, signal]) });
  };
  const transport = createConnectTransport({
    baseUrl: url,
    httpVersion: "1.1",
    interceptors: [interceptor],
    defaultTimeoutMs: callTimeoutMs,
  });
  return {
    url,
    agents: createClient(AgentsService, transport),
    auth: createClient(AuthService, transport),
    clusters: createClient(ClusterService, transport),
    gateways: createClient(GatewayService, transport),
    products: createClient(ProductService, transport),
    publishes: createClient(ProductPublishService, transport),
    tokens: createClient(RegistrationTokenService, transport),
  };
}

/** What `asked` answers; undefined where it does not exist. */
export async function found<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof ConnectError && error.code === Code.NotFound) return undefined;
    throw error;
  }
}

/** An error of the API in one line, with its reason and its violations. */
export function errorText(error: unknown): string {
  if (!(error instanceof ConnectError)) return error instanceof Error ? error.message : String(error);
  const reason = error.findDetails(ErrorInfoSchema)[0]?.reason;
  const fields = error.findDetails(BadRequestSchema).flatMap((detail) => detail.fieldViolations);
  const violations = fields.map(({ field, description }) => `; ${field}: ${description}`).join("");
  return `${reason === undefined ? "" : `${reason}: `}${error.rawMessage}${violations}`;
}
