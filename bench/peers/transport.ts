/** How peers serve callers and agents: what Bowline serves them with, and nothing behind it. */
import { createServer, type Http2Server } from "node:http2";
import type { AddressInfo } from "node:net";
import type { ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";

export interface Serving {
  url: string;
  close(): void;
}

export async function serve(routes: (router: ConnectRouter) => void): Promise<Serving> {
  const server: Http2Server = createServer(connectNodeAdapter({ routes }));
  const open = new Set<{ destroy(): void }>();
  server.on("session", (session) => {
    open.add(session);
    session.once("close", () => open.delete(session));
    session.on("error", () => undefined); // its streams tell
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close() {
      server.close();
      for (const session of open) session.destroy();
    },
  };
}
