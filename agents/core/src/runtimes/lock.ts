/**
 * One runtime per data folder.
 *
 * The lock is a socket in Linux's abstract namespace, named after the folder's
 * device and inode: the kernel gives it to one process and takes it back at
 * that process's end, however it ends. A lock file would have to guess whether
 * its writer still lives, and two that guess at once both win.
 */
import { createServer } from "node:net";
import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { errorCode } from "./durable.ts";

/** A second runtime on the same folder. Whoever holds it must end first. */
export class DataDirInUse extends Error {
  override readonly name = "DataDirInUse";
  readonly reason = "DATA_DIR_IN_USE";
}

/** Held until `release`. Throws `DataDirInUse`. */
export async function lockFolder(dataDir: string): Promise<{ release(): Promise<void> }> {
  const { dev, ino } = await stat(dataDir);
  const holderFile = join(dataDir, "runtime.pid");
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) => {
      if (errorCode(error) !== "EADDRINUSE") return reject(error);
      void holder(holderFile).then((who) =>
        reject(new DataDirInUse(`${dataDir} is in use by another agent${who}: end it, or choose another data folder`)),
      );
    });
    server.listen(`\0bowline-local-${dev}-${ino}`, resolve); // every kind: a folder has one runtime
  });
  server.unref(); // the lock must not keep an agent alive that wants to end
  await writeFile(holderFile, `${process.pid}\n`, { mode: 0o600 }); // for people only; the socket decides
  return {
    release: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

async function holder(file: string): Promise<string> {
  try {
    return ` (process ${(await readFile(file, "utf8")).trim()})`;
  } catch {
    return ""; // the message is only less helpful
  }
}
