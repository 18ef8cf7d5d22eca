/** The step through an HTTP proxy. */
import { request } from "node:http";
import type { Socket } from "node:net";
import { bounded } from "./bounded.ts";
import type { Proxy } from "./proxies.ts";
import { DialError } from "./reasons.ts";
import { authorityOf, type DialTarget, type Endpoint } from "./target.ts";
import { openTls } from "./tls.ts";

/** CONNECT. The credentials go to the proxy and into nothing else. */
export async function openTunnel(
  socket: Socket,
  proxy: Proxy,
  server: Endpoint,
  target: DialTarget,
  within: number,
  signal: AbortSignal | undefined,
): Promise<Socket> {
  const named = authorityOf(proxy);
  const way = proxy.secure
    ? (
        await openTls(
          socket,
          proxy,
          { ...target, clientCertificate: undefined, protocol: "http/1.1", trust: "checked" },
          within,
          signal,
        ).catch((error: unknown) => {
          if (!(error instanceof DialError)) throw error;
          throw new DialError("proxy", error.reason, `TLS to the proxy ${named}: ${error.message}`, {
            remedy: error.remedy,
            cause: error,
          });
        })
      )[0]
    : socket;
  return bounded(
    { step: "proxy", reason: "PROXY_REFUSED", what: `no answer of the proxy ${named}`, within, signal },
    (settle) => {
      const refused = (why: string, cause?: unknown): void =>
        settle.reject(
          new DialError(
            "proxy",
            "PROXY_REFUSED",
            `the proxy ${named} opens no tunnel to ${authorityOf(server)}: ${why}`,
            {
              remedy: "Have the server's name and port allowed in the proxy, or name it in NO_PROXY.",
              cause,
            },
          ),
        );
      const asked = request({
        method: "CONNECT",
        path: authorityOf(server),
        headers: {
          host: authorityOf(server),
          ...(proxy.authorization === undefined ? {} : { "proxy-authorization": proxy.authorization }),
        },
        createConnection: () => way,
      });
      asked.once("error", (error: NodeJS.ErrnoException) => refused(error.code ?? error.message, error));
      asked.once("response", ({ statusCode }) => refused(`it answers ${statusCode} to CONNECT`));
      asked.once("connect", ({ statusCode = 0 }, tunnel: Socket, head: Buffer) => {
        if (statusCode === 407) {
          return refused(
            proxy.authorization === undefined
              ? "it wants user and password (407); write them into the proxy's URL: http://user:password@…"
              : "it does not take the user and password of its URL (407)",
          );
        }
        if (statusCode < 200 || statusCode > 299) return refused(`it answers ${statusCode} to CONNECT`);
        if (head.length > 0) tunnel.unshift(head);
        settle.resolve(tunnel);
      });
      asked.end();
      return () => way.destroy();
    },
  );
}
