/** Servers that agents can hold streams to, and how one listens. */
import type { Http2SecureServer, Http2Server } from "node:http2";
import type { AddressInfo } from "node:net";

export interface WireOptions {
  /** Undefined: clear text. */
  tls?: { cert: string; key: string } | undefined;
  /** 0: any free one. */
  port: number;
}

export interface WireServer {
  url: string;
  close(): void;
}

export async function listening(
  server: Http2Server | Http2SecureServer,
  scheme: "http" | "https",
  port: number,
): Promise<WireServer> {
  const open = new Set<{ destroy(): void }>();
  server.on("session", (session) => {
    open.add(session);
    session.once("close", () => open.delete(session));
    session.on("error", () => undefined); // its streams tell
  });
  server.on("secureConnection", (socket) => socket.on("error", () => undefined)); // the caller is gone
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", 4_096, resolve));
  return {
    url: `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close() {
      server.close();
      for (const session of open) session.destroy();
    },
  };
}
