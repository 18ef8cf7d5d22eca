/** The server's API, as an operator and provider uses it. */
import { readFileSync } from "node:fs";
import { type Client, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { ClusterService, RegistrationTokenService } from "@bowline/contract/clusters";
import { CommandService } from "@bowline/contract/commands";
import { GatewayService, ProductPublishService, ProductService } from "@bowline/contract/products";
import { dialledAgent, type DialTarget } from "@bowline/dial";

export interface Api {
  clusters: Client<typeof ClusterService>;
  tokens: Client<typeof RegistrationTokenService>;
  commands: Client<typeof CommandService>;
  gateways: Client<typeof GatewayService>;
  products: Client<typeof ProductService>;
  publishes: Client<typeof ProductPublishService>;
  /** Closes its connections. */
  close(): void;
}

/** No answer of a unary call takes longer. */
const callWithinMs = 30_000;
/** A publish to thousands of agents names each of them. */
const maxMessageBytes = 32 * 1024 * 1024;

export function targetOf(server: string, caFile: string | undefined): DialTarget {
  return caFile === undefined ? { url: server } : { url: server, ca: readFileSync(caFile, "utf8") };
}

export function openApi(target: DialTarget, token: string): Api {
  const agent = dialledAgent(target.url, () => target);
  const transport = createConnectTransport({
    baseUrl: target.url,
    httpVersion: "1.1",
    nodeOptions: { agent },
    interceptors: [
      (next) => (request) => {
        request.header.set("authorization", `Bearer ${token}`);
        return next(request);
      },
    ],
    readMaxBytes: maxMessageBytes,
    defaultTimeoutMs: callWithinMs,
  });
  return {
    clusters: createClient(ClusterService, transport),
    tokens: createClient(RegistrationTokenService, transport),
    commands: createClient(CommandService, transport),
    gateways: createClient(GatewayService, transport),
    products: createClient(ProductService, transport),
    publishes: createClient(ProductPublishService, transport),
    close: () => agent.destroy(),
  };
}
