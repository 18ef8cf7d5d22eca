/** A server of the run's own: an embedded PostgreSQL in a temporary folder, and nothing of it left at the end. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export interface OwnServer {
  url: string;
  pid: number;
  operatorToken: string;
  stop(): Promise<void>;
}

const program = fileURLToPath(new URL("../../services/control-plane/src/main.ts", import.meta.url));
const root = fileURLToPath(new URL("../..", import.meta.url));
/** A cold start with a new database on a busy machine. */
const startWithinMs = 120_000;
/** Above a server's own orderly shutdown. */
const stopWithinMs = 30_000;
const keptCharacters = 4_000;

/** `flags`: settings, `--name=value`. */
export async function startOwnServer(flags: readonly string[]): Promise<OwnServer> {
  const folder = await mkdtemp(join(tmpdir(), "bowline-fleet-"));
  const remove = () => rm(folder, { recursive: true, force: true });
  const own = ["start", "--data-dir", folder, "--port", "0", "--log-format", "json", "--log-level", "info"];
  const child = spawn(
    process.execPath,
    // The load is ours: what is measured is not how much one token may call.
    [program, ...own, "--rate-limit-principal=0", "--rate-limit-address=0", "--lifeline-stdin", ...flags],
    // Nothing of the surroundings: a database that is named there is somebody's.
    { cwd: root, env: withoutBowline(process.env), detached: true, stdio: ["pipe", "ignore", "pipe"] },
  );
  child.stdin.on("error", () => undefined); // it ended; its exit tells
  const ended = once(child, "exit");
  let said = "";
  const listening = new Promise<string>((resolve) => {
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      said = (said + text).slice(-keptCharacters);
      const [, url] = /"url":"([^"]+)".*"msg":"listening"/.exec(said) ?? [];
      if (url !== undefined) resolve(url);
    });
  });
  const stop = async (): Promise<void> => {
    const kill = setTimeout(() => child.kill("SIGKILL"), stopWithinMs);
    child.kill("SIGTERM");
    await ended;
    clearTimeout(kill);
    await remove();
  };
  const late = AbortSignal.timeout(startWithinMs);
  try {
    const url = await Promise.race([
      listening,
      ended.then(() => Promise.reject(new Error(`the server ended by itself:\n${said}`))),
      once(late, "abort").then(() =>
        Promise.reject(new Error(`the server is not ready after ${startWithinMs / 1000} s`)),
      ),
    ]);
    const operatorToken = (await readFile(join(folder, "admin-token"), "utf8")).trim();
    return { url, pid: child.pid ?? 0, operatorToken, stop };
  } catch (error) {
    if (child.exitCode === null && child.signalCode === null) await stop();
    else await remove();
    throw error;
  }
}

function withoutBowline(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith("BOWLINE_")));
}
