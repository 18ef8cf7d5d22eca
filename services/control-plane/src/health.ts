/**
 * `bowline server health`: whether the server of this data folder takes work,
 * for a container's health check. It finds the port in what the server wrote
 * (compose.ts), and asks `/ready` there, as a load balancer does.
 */
import { readFile } from "node:fs/promises";
import { get as getClear, type RequestOptions } from "node:http";
import { get as getSecured } from "node:https";
import { join } from "node:path";
import { ConfigError, loadConfig } from "./config.ts";

/** Above what `/ready` waits for its database; below the time that a health check has. */
const answerWithinMs = 4_000;
/** What `/ready` says has a few hundred bytes. */
const maxAnswer = 10_000;

/** The command; its exit code. */
export async function health(args: readonly string[]): Promise<number> {
  let dataDir: string;
  try {
    ({ dataDir } = loadConfig(args).config);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    process.stderr.write(`bowline server: INVALID_SETTING: ${error.message}\n`);
    return 2;
  }
  const found = await askHealth(dataDir);
  if (found.ready) process.stdout.write(`ready: ${found.url}\n`);
  else process.stderr.write(`bowline server: NOT_READY: ${found.why}\n`);
  return found.ready ? 0 : 1;
}

type ServerHealth = { ready: true; url: string } | { ready: false; why: string };

/** Never throws. */
async function askHealth(dataDir: string): Promise<ServerHealth> {
  let url: string;
  try {
    ({ url } = JSON.parse(await readFile(join(dataDir, "server.json"), "utf8")) as { url: string });
  } catch {
    return { ready: false, why: `no server runs on ${dataDir}` };
  }
  try {
    const { status, text } = await ask(`${url}/ready`);
    return status === 200 ? { ready: true, url } : { ready: false, why: `${url} answers ${status}: ${text}` };
  } catch (error) {
    return { ready: false, why: `${url} does not answer: ${error instanceof Error ? error.message : String(error)}` };
  }
}

function ask(url: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    // Its certificate has the name by which others reach it; here it is this machine's own port.
    const how: RequestOptions & { rejectUnauthorized: boolean } = { agent: false, rejectUnauthorized: false };
    const sent = (url.startsWith("https:") ? getSecured : getClear)(url, how, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (chunk: string) => (text = (text + chunk).slice(0, maxAnswer)));
      answer.on("end", () => {
        clearTimeout(tooLong);
        resolve({ status: answer.statusCode ?? 0, text });
      });
    });
    const tooLong = setTimeout(() => sent.destroy(new Error(`nothing within ${answerWithinMs} ms`)), answerWithinMs);
    sent.on("error", (error) => {
      clearTimeout(tooLong);
      reject(error);
    });
  });
}
