/** HTTP/1.1 over the same steps, for node:http and node:https and whatever stands on them. */
import { Agent, type ClientRequestArgs } from "node:http";
import type { Duplex } from "node:stream";
import { dialSocket } from "./dial.ts";
import { type DialTarget, endpointOf } from "./target.ts";

/** Connections kept for the next request: a command of the CLI makes a handful in a row. */
const maxFreeSockets = 4;

/**
 * An agent for requests to the server at `url`; `target` is asked for at each
 * dial. A dial that fails is the request's `error`, a DialError. `destroy()`
 * closes what is kept open.
 */
export function dialledAgent(url: string, target: () => DialTarget | Promise<DialTarget>): Agent {
  return new DialledAgent(url, target);
}

class DialledAgent extends Agent {
  readonly #target: () => DialTarget | Promise<DialTarget>;
  /** What node:https compares with the URL's. */
  protocol: string;
  defaultPort: number;

  constructor(url: string, target: () => DialTarget | Promise<DialTarget>) {
    super({ keepAlive: true, maxFreeSockets });
    this.#target = target;
    this.protocol = new URL(url).protocol;
    this.defaultPort = endpointOf(new URL(`${this.protocol}//host`)).port;
  }

  override createConnection(_: ClientRequestArgs, done?: (error: Error | null, stream: Duplex) => void): undefined {
    const dial = async () => dialSocket(await this.#target(), { protocol: "http/1.1" });
    dial().then(
      (socket) => done?.(null, socket),
      (error: Error) => done?.(error, undefined as unknown as Duplex),
    );
    return undefined;
  }
}
