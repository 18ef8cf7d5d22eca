/**
 * The one HTTP/2 connection of an agent, over whatever dials it: opened at the
 * first call, shared by all, kept alive by pings, and opened anew by a call
 * that comes after its end.
 *
 * H1: a server that says GOAWAY gets no new calls on that connection; those
 *     under way end there.
 * H2: after `close` nothing is left open, also not what was being dialled.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { ConnectTransportOptions } from "@connectrpc/connect-node";
import { type ClientHttp2Session, constants } from "node:http2";

/** Below the idle timers of common NATs (30 s and more), and beside the heartbeats, which are data. */
const pingIntervalMs = 20_000;
/** A ping without an answer for this long is a dead connection. */
const pingTimeoutMs = 10_000;
/** A connection may end between its dial and the call; twice in a row is a server that ends them. */
const maxTries = 3;

type SessionManager = NonNullable<Extract<ConnectTransportOptions, { httpVersion: "2" }>["sessionManager"]>;

export interface Connection extends SessionManager {
  /** Cuts it; calls under way fail. A later call dials anew. */
  close(): void;
}

/** `dial` resolves with a session that works, and gives up when its signal aborts. */
export function createConnection(
  url: string,
  dial: (signal: AbortSignal) => Promise<ClientHttp2Session>,
  /** A call is over, also one of which nobody reads what came. */
  callEnded: () => void = () => undefined,
): Connection {
  const open = new Set<ClientHttp2Session>();
  let ending = new AbortController();
  let current: Promise<ClientHttp2Session> | undefined;

  const fresh = (): Promise<ClientHttp2Session> => {
    const { signal } = ending;
    const dialled = dial(signal).then((session) => {
      if (signal.aborted) session.destroy(); // H2
      else keep(session);
      signal.throwIfAborted();
      return session;
    });
    const forget = (): void => {
      if (current === dialled) current = undefined;
    };
    dialled.then((session) => session.once("close", forget).once("goaway", forget), forget); // H1
    return (current = dialled);
  };
  const keep = (session: ClientHttp2Session): void => {
    open.add(session);
    session.on("error", () => undefined); // its streams fail with it, and their callers hear of it
    const stopPings = pinged(session);
    session.once("close", () => {
      stopPings();
      open.delete(session);
    });
  };

  return {
    authority: new URL(url).origin,
    async request(method, path, headers, options) {
      for (let tries = 1; ; tries += 1) {
        const session = await (current ?? fresh()).catch((error: unknown) => Promise.reject(unreached(error)));
        try {
          return session.request({ ...headers, ":method": method, ":path": path }, options).once("close", callEnded);
        } catch (error) {
          if (!(session.closed || session.destroyed) || tries >= maxTries) throw error;
          current = undefined;
        }
      }
    },
    notifyResponseByteRead: () => undefined, // pings go out anyway; nothing hangs on this
    close() {
      const reason = new ConnectError("the connection was closed", Code.Canceled);
      ending.abort(reason);
      ending = new AbortController();
      current = undefined;
      for (const session of open) session.destroy(reason, constants.NGHTTP2_CANCEL); // H2
    },
  };
}

/** Pings until the session closes; ends it where no answer comes. */
function pinged(session: ClientHttp2Session): () => void {
  let deadline: NodeJS.Timeout | undefined;
  const timer = setInterval(() => {
    if (deadline !== undefined || session.destroyed || session.closed) return;
    deadline = setTimeout(
      () => session.destroy(new ConnectError("the server answers no ping", Code.Unavailable)),
      pingTimeoutMs,
    );
    session.ping(() => {
      clearTimeout(deadline);
      deadline = undefined;
    });
  }, pingIntervalMs);
  timer.unref();
  return () => {
    clearInterval(timer);
    clearTimeout(deadline);
  };
}

/** The dial's own error is the cause: refusalOf reads its reason. */
function unreached(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  const message = error instanceof Error ? error.message : String(error);
  const remedy = error instanceof Error && "remedy" in error && typeof error.remedy === "string" ? error.remedy : "";
  return new ConnectError(
    remedy === "" ? message : `${message}. ${remedy}`,
    Code.Unavailable,
    undefined,
    undefined,
    error,
  );
}
