/** A port whose way can be changed while an agent uses it: through a proxy that breaks streams, then straight. */
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { createServer as createTls } from "node:tls";
import { atEnd, type Certificate } from "@bowline/testing";

export interface Detour {
  port: number;
  /** What is open is cut; what comes goes there. */
  to(port: number): void;
}

export async function startDetour(first: number): Promise<Detour> {
  let target = first;
  const sockets = new Set<Socket>();
  const server = createServer((socket) => join(socket, target, sockets));
  const port = await listening(server, sockets);
  return {
    port,
    to(next) {
      target = next;
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** Ends TLS and passes bytes on as they are: HTTP/2 stays HTTP/2. Its port. */
export async function startTlsEnd(certificate: Certificate, target: number): Promise<number> {
  const sockets = new Set<Socket>();
  const options = { cert: certificate.chain, key: certificate.key, ALPNProtocols: ["h2", "http/1.1"] };
  const server = createTls(options, (socket) => join(socket, target, sockets));
  server.on("tlsClientError", () => undefined); // cut in the middle of a handshake
  return listening(server, sockets);
}

function join(socket: Socket, target: number, sockets: Set<Socket>): void {
  const other = connect(target, "127.0.0.1");
  for (const [one, peer] of [
    [socket, other],
    [other, socket],
  ] as const) {
    sockets.add(one);
    one
      .on("error", () => undefined)
      .once("close", () => {
        sockets.delete(one);
        peer.destroy();
      });
    one.pipe(peer);
  }
}

async function listening(server: ReturnType<typeof createServer>, sockets: Set<Socket>): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  atEnd(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });
  return (server.address() as AddressInfo).port;
}
