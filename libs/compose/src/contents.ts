/**
 * The files that came with the stack: env files, files of secrets and configs,
 * and what relative bind mounts name. An agent has no folder of the project, so
 * a relative bind mount works where its file travels with the stack: as a
 * config, which is a copy.
 */
import { readEnvFile } from "./envfile.ts";
import type { Variables } from "./interpolate.ts";
import { MAX_CONTENT_BYTES } from "./limits.ts";
import type { Config, FileMount, Mount } from "./model.ts";
import { Unreadable } from "./unreadable.ts";

/** Contents by path, and which were looked for in vain. */
export class Contents {
  /** Paths that the files name and nobody gave. */
  readonly missing = new Set<string>();
  /** Configs made of relative bind mounts, by name. */
  readonly made = new Map<string, Config>();
  readonly #given = new Map<string, Uint8Array>();
  readonly #names = new Map<string, string>();
  /** By path and format: a file is read once, however many services name it, and however they spell it. */
  readonly #envFiles = new Map<string, ReadonlyMap<string, string> | Unreadable>();

  constructor(contents: Readonly<Record<string, string | Uint8Array>>) {
    for (const [path, content] of Object.entries(contents))
      this.#given.set(plainPath(path), typeof content === "string" ? new TextEncoder().encode(content) : content);
  }

  bytesOf(path: string): Uint8Array | undefined {
    const found = this.#given.get(plainPath(path));
    if (found === undefined) this.missing.add(path);
    return found;
  }

  textOf(path: string): string | undefined {
    const found = this.bytesOf(path);
    return found === undefined ? undefined : new TextDecoder().decode(found);
  }

  /** The variables of an env file; undefined where it was not given. Throws Unreadable. `variables` are those of the call. */
  envFile(path: string, variables: Variables, raw: boolean): ReadonlyMap<string, string> | undefined {
    const key = JSON.stringify([plainPath(path), raw]);
    let read = this.#envFiles.get(key);
    if (read === undefined) {
      const text = this.textOf(path);
      if (text === undefined) return undefined;
      try {
        read = readEnvFile(text, variables, raw);
      } catch (error) {
        if (!(error instanceof Unreadable)) throw error;
        read = error;
      }
      this.#envFiles.set(key, read);
    }
    if (read instanceof Unreadable) throw read;
    return read;
  }

  /**
   * A relative bind mount as mounts of configs: of the file itself, or, read-only,
   * of each file below the folder. Undefined where none was given.
   */
  asConfigs(mount: Mount & { kind: "bind" }, declared: ReadonlySet<string>): FileMount[] | undefined {
    const path = plainPath(mount.source);
    const file = this.#given.get(path);
    if (file !== undefined && file.length <= MAX_CONTENT_BYTES)
      return [this.#config(path, file, mount.target, declared)];
    const below = [...this.#given].filter(([name]) => name.startsWith(path === "." ? "" : `${path}/`));
    const fits = below.every(([, content]) => content.length <= MAX_CONTENT_BYTES);
    if (below.length === 0 || !mount.readOnly || !fits) {
      this.missing.add(mount.source);
      return undefined;
    }
    const from = path === "." ? 0 : path.length + 1;
    return below.map(([name, content]) => this.#config(name, content, `${mount.target}/${name.slice(from)}`, declared));
  }

  #config(path: string, content: Uint8Array, target: string, declared: ReadonlySet<string>): FileMount {
    let name = this.#names.get(path) ?? "";
    if (name === "") {
      const plain = path.replaceAll(/[^A-Za-z0-9._-]+/g, "-");
      name = plain;
      for (let next = 2; declared.has(name) || this.made.has(name); next += 1) name = `${plain}-${next}`;
      this.#names.set(path, name);
      this.made.set(name, { name, source: { kind: "given", ...encoded(content) } });
    }
    // Scripts are mounted so, too: who may read may execute.
    return { source: name, target, mode: 0o555 };
  }
}

/** `./a//b/../c` as `a/c`. */
export function plainPath(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/"))
    if (part === ".." && parts.length > 0 && parts.at(-1) !== "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  const plain = parts.join("/");
  return path.startsWith("/") ? `/${plain}` : plain === "" ? "." : plain;
}

/** Bytes as text where they are text. */
export function encoded(content: Uint8Array): { content: string; encoding: "utf8" | "base64" } {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content);
    return { content: text, encoding: "utf8" };
  } catch {
    // Bytes that are no text come back as they were.
    return { content: Buffer.from(content).toString("base64"), encoding: "base64" };
  }
}
