/** Ports for tests. Prefer `--port 0` where what listens can say which one it got, and is not started there again. */
import { readFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { testSettings } from "./config.ts";

/** Above what services have by custom. */
const firstPort = 10_000;
/** So many workers of a run have ports of their own. */
const workers = 8;
/** Too few to have parts of them: a kernel that gives nearly all of them by itself. */
const fewestPorts = 8_000;
/** Ports that others listen on, in a row. */
const maxTries = 100;

/**
 * A TCP port of 127.0.0.1 that is free, and that nobody gets by chance before it is used, or while what listened there
 * starts again: it is below those that the kernel gives to whoever dials or listens on port 0, and this worker's alone.
 */
export async function freePort(): Promise<number> {
  let last: unknown;
  for (let tries = 0; tries < maxTries; tries += 1) {
    try {
      return await listenOnce(nextPort());
    } catch (error) {
      last = error;
    }
  }
  throw new Error(`no port is free after ${maxTries} tries`, { cause: last });
}

let offset: number | undefined;

/** 0: any, where the kernel leaves too few. */
function nextPort(): number {
  const count = firstOfKernel() - firstPort;
  if (count < fewestPorts) return 0;
  const share = Math.floor(count / workers);
  // A worker runs a file after the other, and another run may have a worker of the same number.
  offset = ((offset ?? Math.floor(Math.random() * share)) + 1) % share;
  return firstPort + (testSettings().worker % workers) * share + offset;
}

function firstOfKernel(): number {
  try {
    return Number.parseInt(readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8"), 10);
  } catch {
    return 0; // Not Linux.
  }
}

async function listenOnce(port: number): Promise<number> {
  const server = createServer();
  const found = await new Promise<number>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => resolve((server.address() as AddressInfo).port));
  });
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return found;
}
