/**
 * An HTTP proxy on loopback that tunnels by CONNECT, and writes down what it
 * was asked. It can want credentials, refuse, or open TLS with a CA of its
 * own, as some companies' do. Names that nobody else knows go where `hosts`
 * says, so that a test sees whether a client went through it.
 */
import { once } from "node:events";
import { createServer, type IncomingMessage } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { connect as connectTls, TLSSocket } from "node:tls";
import type { Certificate } from "./certificates.ts";
import { atEnd } from "./endings.ts";

export interface HttpProxyOptions {
  /** `user:password` that it wants; without them: 407. */
  credentials?: string;
  /** Answers this status to every CONNECT. */
  refuse?: number;
  /** Ends TLS with this certificate, and dials the server by TLS itself, trusting anybody. */
  intercept?: Certificate;
  /** Protocols that it offers where it ends TLS. Default: h2 and http/1.1. */
  interceptProtocols?: readonly string[];
  /** Where names lead; others as they are. */
  hosts?: Readonly<Record<string, string>>;
}

export interface HttpProxy {
  /** `http://127.0.0.1:PORT`, without credentials. */
  url: string;
  /** Each CONNECT that came: its target, and its Proxy-Authorization. */
  asked: { authority: string; authorization: string | undefined }[];
  /** Tunnels that are open now. */
  tunnels(): number;
  /** Cuts what is open; new tunnels are taken. */
  cut(): void;
}

export async function startHttpProxy(options: HttpProxyOptions = {}): Promise<HttpProxy> {
  const asked: HttpProxy["asked"] = [];
  const sockets = new Set<Socket>();
  let tunnels = 0;
  const keep = (socket: Socket): Socket => {
    sockets.add(socket);
    socket.on("error", () => socket.destroy()); // the other side of the tunnel is told by the close
    socket.once("close", () => sockets.delete(socket));
    return socket;
  };
  const server = createServer((_, response) => response.writeHead(405).end());
  server.on("connection", keep);
  server.on("connect", (request: IncomingMessage, client: Socket, head: Buffer) => {
    const authority = request.url ?? "";
    const authorization = request.headers["proxy-authorization"];
    asked.push({ authority, authorization });
    const say = (status: string, then = ""): void =>
      void client.end(`HTTP/1.1 ${status}\r\n${then}content-length: 0\r\n\r\n`);
    if (options.refuse !== undefined) return say(`${options.refuse} Refused`);
    const wanted = options.credentials;
    if (wanted !== undefined && authorization !== `Basic ${Buffer.from(wanted).toString("base64")}`) {
      return say("407 Proxy Authentication Required", 'proxy-authenticate: Basic realm="test"\r\n');
    }
    const { hostname, port } = new URL(`http://${authority}`);
    const host = options.hosts?.[hostname] ?? hostname;
    const upstream = keep(
      options.intercept === undefined
        ? connect(Number(port || 80), host)
        : connectTls({
            host,
            port: Number(port),
            rejectUnauthorized: false,
            ALPNProtocols: [...(options.interceptProtocols ?? []), "h2"],
          }),
    );
    upstream.once("error", () => say("502 Bad Gateway"));
    upstream.once(options.intercept === undefined ? "connect" : "secureConnect", () => {
      client.write("HTTP/1.1 200 Connection established\r\n\r\n");
      if (head.length > 0) client.unshift(head);
      tunnels += 1;
      client.once("close", () => (tunnels -= 1));
      join(options.intercept === undefined ? client : keep(opened(client, options.intercept, options)), upstream);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = (): void => sockets.forEach((socket) => socket.destroy());
  atEnd(async () => {
    cut();
    server.close();
    await once(server, "close");
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    tunnels: () => tunnels,
    cut,
  };
}

function opened(client: Socket, certificate: Certificate, options: HttpProxyOptions): Socket {
  const secure = new TLSSocket(client, {
    isServer: true,
    cert: certificate.chain,
    key: certificate.key,
    ALPNProtocols: [...(options.interceptProtocols ?? ["h2", "http/1.1"])],
  });
  return secure;
}

function join(one: Socket, other: Socket): void {
  one.pipe(other);
  other.pipe(one);
  one.once("close", () => other.destroy());
  other.once("close", () => one.destroy());
}
