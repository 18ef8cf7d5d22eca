/** Whether a port is free, and who holds it if not. */
import { readdir, readFile, readlink } from "node:fs/promises";
import { createServer } from "node:net";

/** Whether 127.0.0.1:`port` can be listened on now. */
export async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once("error", () => resolve(false));
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => resolve(true)));
  });
}

export type Holder = { pid: number; command: string };

/**
 * The process that listens on `port`, as far as this user may see it. Undefined
 * where that is not known: another user's, or not Linux.
 */
export async function holderOf(port: number): Promise<Holder | undefined> {
  const inodes = new Set<string>();
  for (const table of ["/proc/net/tcp", "/proc/net/tcp6"]) {
    for (const row of (await read(table)).split("\n").slice(1)) {
      const [, local = "", , state, , , , , , inode] = row.trim().split(/\s+/);
      const listens = state === "0A";
      if (listens && Number.parseInt(local.split(":")[1] ?? "", 16) === port) inodes.add(`socket:[${inode}]`);
    }
  }
  if (inodes.size === 0) return undefined;
  for (const entry of await readdir("/proc").catch(() => [])) {
    if (!/^\d+$/.test(entry)) continue;
    for (const handle of await readdir(`/proc/${entry}/fd`).catch(() => [])) {
      const target = await readlink(`/proc/${entry}/fd/${handle}`).catch(() => "");
      if (!inodes.has(target)) continue;
      return { pid: Number(entry), command: (await read(`/proc/${entry}/cmdline`)).replaceAll("\0", " ").trim() };
    }
  }
  return undefined;
}

/** `node services/… (pid 4711)`, for messages. */
export function holderText(holder: Holder | undefined): string {
  /** Enough to know it again. */
  const maxCommandChars = 120;
  if (holder === undefined) return "a process of another user, or one that is not seen from here";
  return `${holder.command.slice(0, maxCommandChars)} (pid ${holder.pid})`;
}

async function read(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch {
    return ""; // Not Linux, or it ended meanwhile.
  }
}
