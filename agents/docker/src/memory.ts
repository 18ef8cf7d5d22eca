/**
 * Files of containers that are kept in memory: those of secrets, and all files
 * of a container whose root file system is read-only, since that takes no
 * archive. Each is a file on a tmpfs of the host, which the engine mounts.
 *
 *     <tmpfs>/bowline/<agent>/<deployment>.<slot>/<number>
 *
 * M1: the folder is on a tmpfs and only root may enter it: no secret is on a disk.
 * M2: they are there before each start. A host that was restarted has lost them;
 *     what they are made of, sealed, is in the slot's definition.
 * M3: they go with their container; what no slot has goes when the runtime begins.
 *
 * Only where the agent is root and the engine sees what the agent writes, with
 * the same users. Elsewhere (an engine on another host, an agent in a container
 * without a common folder) secrets are copied into the container, as Docker
 * Compose does (archive.ts).
 */
import { randomBytes } from "node:crypto";
import { chmod, chown, lstat, mkdir, readdir, readFile, rm, rmdir, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { errorCode, mountTarget, openAll, type OpenSecret, Refusal, unsupported } from "@bowline/agent-core/runtimes";
import type { Deployment, Workload } from "@bowline/contract/deployments";
import { defaultFileMode } from "./archive.ts";
import { EngineError, type Engine } from "./engine.ts";

/** One file as a slot's definition keeps it. */
export interface MemoryFile {
  /** Inside. */
  path: string;
  mode: number;
  uid: number;
  gid: number;
  /** Either the value of a secret, as it came, or bytes as base64. */
  sealed?: string;
  content?: string;
}

/** Whose they are, as far as they are asked for. */
interface Slot {
  deploymentId: string;
  slot: string;
  memoryFiles?: MemoryFile[];
}

export interface Memory {
  /** Makes what is missing (M2). Throws a refusal. */
  fill(definition: Slot): Promise<void>;
  /** What the engine mounts of it. */
  mounts(definition: Slot): object[];
  /** M3. */
  forget(definition: Slot): Promise<void>;
  /** Leaves no folder behind that has nothing in it. */
  close(): Promise<void>;
}

/** Where Linux has a tmpfs; the first that is one, and that the engine sees, is taken. */
export const memoryPlaces: readonly string[] = ["/run", "/dev/shm"];
const tmpfs = 0x01021994;

/** The files of a workload that are to be in memory, where there is one. */
export function memoryFilesOf(workload: Workload, spec: Pick<Deployment, "files" | "sealedSecrets">): MemoryFile[] {
  return workload.mounts.flatMap(({ source, path }): MemoryFile[] => {
    const file = source.case === "file" ? spec.files.find(({ name }) => name === source.value) : undefined;
    if (file === undefined || !isKept(workload, file.secret)) return [];
    return [
      {
        path: `/${mountTarget(path) ?? ""}`,
        mode: (file.mode === 0 ? defaultFileMode : file.mode) & 0o7555,
        ...{ uid: Number(file.uid || 0), gid: Number(file.gid || 0) },
        ...(file.secret === ""
          ? { content: Buffer.from(file.content).toString("base64") }
          : { sealed: spec.sealedSecrets[file.secret] ?? "" }),
      },
    ];
  });
}

/** The workload without the mounts that memory has. */
export function withoutMemory(workload: Workload, spec: Pick<Deployment, "files">): Workload {
  const inMemory = (name: string): boolean =>
    spec.files.some((file) => file.name === name && isKept(workload, file.secret));
  return {
    ...workload,
    mounts: workload.mounts.filter(({ source }) => source.case !== "file" || !inMemory(source.value)),
  };
}

function isKept(workload: Workload, secret: string): boolean {
  return secret !== "" || workload.container?.readOnly === true;
}

/** Undefined: this agent and this engine have none in common. `held`: names of the folders that stay (M3). */
export async function openMemory(
  engine: Engine,
  options: {
    agent: string;
    openSecret: OpenSecret | undefined;
    /** As the engine reports them. */
    securityOptions: readonly string[];
    held: ReadonlySet<string>;
    places: readonly string[];
  },
): Promise<Memory | undefined> {
  // Other users, and labels that files in here do not have.
  const differs = options.securityOptions.some((option) => /name=(userns|rootless|selinux)/.test(option));
  if (process.getuid?.() !== 0 || differs) return undefined;
  for (const place of options.places) {
    const folder = join(place, "bowline", options.agent);
    if (!(await isTmpfs(place, folder)) || !(await isSeen(engine, folder))) continue;
    for (const name of await readdir(folder))
      if (!options.held.has(name)) await rm(join(folder, name), { recursive: true, force: true });
    return memoryIn(folder, options.openSecret);
  }
  return undefined;
}

async function isTmpfs(place: string, folder: string): Promise<boolean> {
  const common = join(place, "bowline");
  try {
    // A folder of its own may be mounted there, as in a container.
    const mounted = (await statfs(common).catch(() => statfs(place))).type;
    if (mounted !== tmpfs) return false;
    await mkdir(common, { mode: 0o700 }).catch((error: unknown) => {
      if (errorCode(error) !== "EEXIST") throw error;
    });
    const found = await lstat(common);
    if (!found.isDirectory() || found.uid !== 0) return false; // M1: everybody may make one in /dev/shm
    await chmod(common, 0o700);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    return true;
  } catch {
    return false; // not ours to write
  }
}

/** Asks for a container that cannot be: the engine looks for what it mounts before it looks for the image. */
async function isSeen(engine: Engine, folder: string): Promise<boolean> {
  const Source = join(folder, `probe-${randomBytes(8).toString("hex")}`);
  await mkdir(Source);
  try {
    await engine.call("POST", "/containers/create", {
      body: {
        Image: `bowline-none:${randomBytes(8).toString("hex")}`,
        HostConfig: { Mounts: [{ Type: "bind", Source, Target: "/probe" }] },
      },
    });
    return false;
  } catch (error) {
    return error instanceof EngineError && error.status === 404;
  } finally {
    await rm(Source, { recursive: true, force: true });
  }
}

/** Names a slot's folder. */
export function memoryName({ deploymentId, slot }: Slot): string {
  return `${deploymentId}.${slot}`;
}

function memoryIn(folder: string, openSecret: OpenSecret | undefined): Memory {
  const folderOf = (definition: Slot): string => join(folder, memoryName(definition));
  return {
    async fill(definition) {
      const files = definition.memoryFiles ?? [];
      if (files.length === 0) return;
      const own = folderOf(definition);
      try {
        await mkdir(own, { recursive: true, mode: 0o700 });
        for (const [index, file] of files.entries()) {
          const { secret } = await openAll(
            openSecret,
            { secret: file.sealed ?? "" },
            file.sealed === undefined ? [] : ["secret"],
          );
          await put(join(own, String(index)), secret ?? Buffer.from(file.content ?? "", "base64"), file);
        }
      } catch (error) {
        if (error instanceof Refusal) throw error;
        const reason = errorCode(error) === "ENOSPC" ? "DISK_FULL" : "START_FAILED";
        throw new Refusal(reason, `files in memory (${folder}): ${String(error)}`, true);
      }
    },
    mounts: (definition) =>
      (definition.memoryFiles ?? []).map(({ path }, index) => ({
        ...{ Type: "bind", Source: join(folderOf(definition), String(index)), Target: path, ReadOnly: true },
      })),
    forget: (definition) => rm(folderOf(definition), { recursive: true, force: true }),
    close: () => rmdir(folder).catch(() => undefined), // it holds files of what runs on
  };
}

/** What is there already stays the same file: a container may have it mounted. */
async function put(path: string, content: Uint8Array, { mode, uid, gid }: MemoryFile): Promise<void> {
  const there = await readFile(path).catch(() => undefined);
  if (there === undefined || Buffer.compare(there, content) !== 0) await writeFile(path, content, { mode: 0o600 });
  await chown(path, uid, gid);
  await chmod(path, mode);
}

/** Throws a refusal for what only memory can do, where there is none. */
export function refuseWithoutMemory(spec: Deployment): void {
  for (const workload of spec.workloads)
    if (workload.container?.readOnly === true && workload.mounts.some(({ source }) => source.case === "file"))
      throw unsupported(
        `workload ${workload.name}: files in a read-only container need an agent that runs as root on the engine's host`,
      );
}
