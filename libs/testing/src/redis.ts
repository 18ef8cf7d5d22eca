/** A real Redis of one's own for the tests that need one; 50 ms to start. */
import { createConnection } from "node:net";
import { join } from "node:path";
import { testSettings } from "./config.ts";
import { temporaryFolder } from "./folders.ts";
import { startProcess, type RunningProcess } from "./processes.ts";
import type { FoundProgram } from "./debian-programs.ts";
import { findRedisServer } from "./redis-server.ts";

export type TestRedis = {
  /** For ioredis and `BOWLINE_REDIS_URL`: the path of a unix socket, or TEST_REDIS_URL. */
  url: string;
  /** The process, to be killed or stopped (SIGSTOP) by a test. Undefined with TEST_REDIS_URL. */
  process: RunningProcess | undefined;
};

/**
 * Starts an empty Redis that keeps nothing on disk and ends with the test or
 * file. Where there is no redis-server, TEST_REDIS_URL is taken, whatever it
 * holds; where that is not set either, throws with what to install. `socket`:
 * where it listens; default: a new folder. `flags`: more settings, which win.
 */
export async function testRedis(options: { socket?: string; flags?: readonly string[] } = {}): Promise<TestRedis> {
  let server: FoundProgram;
  try {
    server = await findRedisServer();
  } catch (error) {
    const { redisUrl } = testSettings();
    if (redisUrl === undefined) throw error;
    return { url: redisUrl, process: undefined };
  }
  const socket = options.socket ?? join(temporaryFolder(), "redis.sock");
  const running = startProcess({
    command: [
      server.program,
      "--port",
      "0",
      "--unixsocket",
      socket,
      "--unixsocketperm",
      "700",
      "--save",
      "",
      "--appendonly",
      "no",
      ...(options.flags ?? []),
    ],
    env: server.env,
  });
  await running.untilLine(/ready to accept connections/i);
  return { url: socket, process: running };
}

/** Sends one command as plain text and returns the first line of the answer (`+PONG`): for tests without a client. */
export async function askRedis(socketPath: string, command: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(socketPath, () => socket.write(`${command}\r\n`));
    let answer = "";
    socket.setEncoding("utf8").on("data", (text: string) => {
      answer += text;
      if (answer.includes("\r\n")) socket.end();
    });
    socket.on("error", reject);
    socket.on("close", () => resolve(answer.split("\r\n")[0] ?? ""));
  });
}
