/** The handler of @connectrpc/connect-node. */
import { createSecureServer, createServer } from "node:http2";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { type AgentMessage, AgentService } from "@bowline/contract/agent";
import { answerTo } from "./answers.ts";
import { listening, type WireOptions, type WireServer } from "./servers.ts";

export function connectNode({ tls, port }: WireOptions): Promise<WireServer> {
  const handler = connectNodeAdapter({
    routes: (router) => router.service(AgentService, { connect: (messages) => answers(messages) }),
  });
  const server = tls === undefined ? createServer(handler) : createSecureServer(tls, handler);
  return listening(server, tls === undefined ? "http" : "https", port);
}

async function* answers(messages: AsyncIterable<AgentMessage>) {
  for await (const message of messages) {
    const answer = answerTo(message);
    if (answer !== undefined) yield answer;
  }
}
