/** For tests: a real HTTP server of either version with REST before scripted handlers of the real contract. */
import { createServer as createHttp1 } from "node:http";
import { createServer as createHttp2 } from "node:http2";
import type { AddressInfo } from "node:net";
import { createRouterTransport } from "@connectrpc/connect";
import type { ConnectRouter } from "@connectrpc/connect";
import { services } from "@bowline/contract";
import { createRest } from "./rest.ts";
import type { Rest, RestOptions } from "./rest.ts";

export type ScriptedServer = {
  url: string;
  rest: Rest;
  /** What REST logged: defects. */
  logged: object[];
  close(): Promise<void>;
};

export async function startScripted(
  handlers: (router: ConnectRouter) => void,
  options: Partial<RestOptions> & { http2?: boolean } = {},
): Promise<ScriptedServer> {
  const logged: object[] = [];
  const rest = createRest({
    services,
    transport: createRouterTransport(handlers),
    log: { error: (fields) => void logged.push(fields) },
    ...options,
  });
  const answer: Parameters<typeof createHttp1>[1] = (request, response) => {
    if (!rest.handle(request, response)) rest.notFound(request, response);
  };
  const open = new Set<{ destroy(): void }>();
  const server = options.http2 === true ? createHttp2(answer as never) : createHttp1(answer);
  server.on("connection", (socket) => {
    open.add(socket);
    socket.once("close", () => open.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    rest,
    logged,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of open) socket.destroy();
      await closed;
    },
  };
}
