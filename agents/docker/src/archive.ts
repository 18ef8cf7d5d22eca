/** Files of a spec as a tar archive, the way the engine takes them into a container. */
import type { Deployment, Workload } from "@bowline/contract/deployments";
import { mountTarget, type Opened } from "@bowline/agent-core/runtimes";

/** Mode of a file whose spec says none. */
export const defaultFileMode = 0o444;
const blockBytes = 512;
/** Longest path that a plain tar header takes without its prefix. */
const maxPathBytes = 100;

/**
 * What a workload mounts of the spec's files; undefined: none. Nobody may write them, whatever their mode says.
 * `secrets` are in clear text, by name.
 */
export function filesOf(workload: Workload, spec: Pick<Deployment, "files">, secrets: Opened): Buffer | undefined {
  const parts: Buffer[] = [];
  for (const { source, path } of workload.mounts) {
    if (source.case !== "file") continue;
    const file = spec.files.find(({ name }) => name === source.value);
    const secret = file?.secret ?? "";
    const content =
      secret === "" ? Buffer.from(file?.content ?? new Uint8Array()) : Buffer.from(secrets[secret] ?? new Uint8Array());
    const owner = { uid: Number(file?.uid || 0), gid: Number(file?.gid || 0) };
    const mode = (file?.mode === undefined || file.mode === 0 ? defaultFileMode : file.mode) & 0o7555;
    parts.push(headerOf(mountTarget(path) ?? "", content.length, mode, owner), content, padding(content.length));
  }
  return parts.length === 0 ? undefined : Buffer.concat([...parts, Buffer.alloc(2 * blockBytes)]);
}

/** One file that everybody may read, root's. `path` is inside, without its first slash. */
export function archiveOf(path: string, content: Buffer): Buffer {
  const head = headerOf(path, content.length, defaultFileMode, { uid: 0, gid: 0 });
  return Buffer.concat([head, content, padding(content.length), Buffer.alloc(2 * blockBytes)]);
}

/** Whether a path fits into the archive. */
export function fitsArchive(path: string): boolean {
  return Buffer.byteLength(mountTarget(path) ?? "") <= maxPathBytes;
}

/** POSIX ustar; the time is zero: equal files are equal archives. */
function headerOf(path: string, size: number, mode: number, { uid, gid }: { uid: number; gid: number }): Buffer {
  const header = Buffer.alloc(blockBytes);
  const octal = (value: number, at: number, width: number): void => {
    header.write(`${value.toString(8).padStart(width - 1, "0")}\0`, at, "latin1");
  };
  header.write(path, 0, maxPathBytes, "utf8");
  octal(mode, 100, 8);
  octal(uid, 108, 8);
  octal(gid, 116, 8);
  octal(size, 124, 12);
  octal(0, 136, 12);
  header.write("        ", 148, "latin1"); // the checksum counts as blanks while it is made
  header.write("0", 156, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  let sum = 0;
  for (const byte of header) sum += byte;
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return header;
}

function padding(size: number): Buffer {
  return Buffer.alloc((blockBytes - (size % blockBytes)) % blockBytes);
}
