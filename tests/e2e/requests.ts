/** What consumers send to a gateway, and the upstreams that answer behind it. */
import { createServer, request, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { atEnd } from "@bowline/testing";

const answerWithinMs = 10_000;
/** Between two requests of a steady consumer: often enough to meet a gap of 50 ms, seldom enough for two cores. */
const paceMs = 20;

export interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: string;
}

/** One request on a connection of its own. Rejects where nobody answers. */
export function get(url: string, headers: Record<string, string> = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request(url, { agent: false, headers, timeout: answerWithinMs }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text: string) => (body += text));
      response.on("error", reject);
      response.on("end", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }));
    });
    sent.on("timeout", () => sent.destroy(new Error(`no answer from ${url} within ${answerWithinMs} ms`)));
    sent.on("error", reject).end();
  });
}

/** The revision's mark in an answer; the status where there is none; the error's text where nobody answers. */
export async function servedVersion(url: string): Promise<string> {
  try {
    const { status, headers } = await get(url);
    return status === 200 ? String(headers["x-version"]) : String(status);
  } catch (error) {
    return (error as Error).message;
  }
}

export interface Consumer {
  /** What was not a 200 so far. */
  failures: () => string[];
  answered: () => number;
  /** The revisions' marks in what was a 200, in their order, each once in a row. */
  versions: () => string[];
  /** Ends it, and returns every failure. */
  stop(): Promise<string[]>;
}

/** Asks again and again, one request after the other, until it is stopped. */
export function startConsumer(url: string): Consumer {
  const failures: string[] = [];
  const versions: string[] = [];
  let answered = 0;
  let stopped = false;
  const asking = (async () => {
    while (!stopped) {
      try {
        const { status, headers, body } = await get(url);
        const version = String(headers["x-version"]);
        if (status === 200) answered += 1;
        if (status === 200 && versions.at(-1) !== version) versions.push(version);
        if (status !== 200) failures.push(`${status} ${body}`);
      } catch (error) {
        failures.push((error as Error).message);
      }
      await sleep(paceMs);
    }
  })();
  const stop = async () => {
    stopped = true;
    await asking;
    return failures;
  };
  atEnd(async () => void (await stop()));
  return { failures: () => failures, answered: () => answered, versions: () => versions, stop };
}

export interface Upstream {
  url: string;
  close(): Promise<void>;
}

/** A plain HTTP server that answers 200 to everything, with its name. `port`: any free one by default. */
export async function startUpstream(name = "upstream", port = 0): Promise<Upstream> {
  const server = createServer((_, response) => response.end(name));
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject).listen(port, "127.0.0.1", resolve);
  });
  let closing: Promise<void> | undefined;
  const close = () =>
    (closing ??= new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    }));
  atEnd(close);
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close };
}
