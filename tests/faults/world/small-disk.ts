/**
 * A disk of a few megabytes for an agent's folder: a tmpfs in a mount namespace
 * of its own. Whoever else looks at the machine sees nothing of it, and it is
 * gone with the process that holds it.
 */
import { rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startProcess, temporaryFolder } from "@bowline/testing";

export interface SmallDisk {
  /** On it; leads into the namespace, so that any process can use it. */
  folder: string;
  /** Takes all of it but so many bytes. */
  fill(leavingBytes: number): void;
  /** Gives back what `fill` took. */
  free(): void;
}

export async function smallDisk(bytes: number): Promise<SmallDisk> {
  const at = temporaryFolder();
  const mount = `mount -t tmpfs -o size=${bytes},mode=0700 tmpfs "$0" && echo mounted && exec sleep infinity`;
  const holder = startProcess({ command: ["unshare", "--mount", "sh", "-c", mount, at] });
  await holder.untilLine("mounted").catch((error: unknown) => {
    throw new Error("a disk of its own needs the right to mount (root, or CAP_SYS_ADMIN)", { cause: error });
  });
  const folder = `/proc/${holder.pid}/root${at}`;
  const ballast = join(folder, "ballast");
  return {
    folder,
    fill(leavingBytes) {
      rmSync(ballast, { force: true });
      const { bavail, bsize } = statfsSync(folder);
      writeFileSync(ballast, Buffer.alloc(Math.max(0, bavail * bsize - leavingBytes)));
    },
    free: () => rmSync(ballast, { force: true }),
  };
}
