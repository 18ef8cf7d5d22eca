/** A server that answers as a test says, over HTTP/2: for calls in which both sides speak. */
import { createServer } from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import type { ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";

export interface ScriptedHttp2 {
  url: string;
  /** Ends every connection, as a server that is killed. */
  cut(): Promise<void>;
  close(): Promise<void>;
}

/** Starts it. */
export async function startScriptedHttp2(routes: (router: ConnectRouter) => void): Promise<ScriptedHttp2> {
  const server = createServer(connectNodeAdapter({ routes }));
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => void sockets.add(socket));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const cut = async (): Promise<void> => {
    for (const socket of sockets) {
      if (socket.closed) continue;
      const gone = new Promise<void>((resolve) => socket.once("close", () => resolve()));
      socket.destroy();
      await gone;
    }
  };
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cut,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      await cut();
      await closed;
    },
  };
}
