/** What is wrong with the files, with the place and what to do. */
import { MAX_DIAGNOSTICS } from "./limits.ts";
import type { ComposeReason } from "./reasons.ts";

/** Where something stands. Lines and columns count from 1; 0 where there is none. */
export interface Place {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

/** One error or warning. */
export interface Diagnostic extends Place {
  readonly severity: "error" | "warning";
  readonly reason: ComposeReason;
  /** `services.web.ports[0]`; empty for the whole. */
  readonly path: string;
  /** What is wrong. Never the content of a secret. */
  readonly message: string;
  /** What to do. */
  readonly advice: string;
}

/** A path inside a file: keys and indexes. */
export type Path = readonly (string | number)[];

/** `services.web.ports[0]`; a key that is no plain word is quoted. */
export function pathText(path: Path): string {
  let text = "";
  for (const part of path) {
    if (typeof part === "number") text += `[${part}]`;
    else if (/^[\w-]+$/.test(part)) text += text === "" ? part : `.${part}`;
    else text += `[${JSON.stringify(part)}]`;
  }
  return text;
}

/** Stops the reading at a limit, where going on would cost what the limit is to save. */
export class Stopped extends Error {}

/** Collects diagnostics, each once, up to the limit. */
export class Report {
  readonly errors: Diagnostic[] = [];
  readonly warnings: Diagnostic[] = [];
  readonly #seen = new Set<string>();

  error(reason: ComposeReason, place: Place, path: Path, message: string, advice: string): void {
    this.#add(this.errors, { severity: "error", reason, ...placeOf(place), path: pathText(path), message, advice });
  }

  warn(reason: ComposeReason, place: Place, path: Path, message: string, advice: string): void {
    this.#add(this.warnings, { severity: "warning", reason, ...placeOf(place), path: pathText(path), message, advice });
  }

  /** Says it, and ends the reading. */
  stop(reason: ComposeReason, place: Place, path: Path, message: string, advice: string): never {
    this.error(reason, place, path, message, advice);
    throw new Stopped(message);
  }

  #add(list: Diagnostic[], diagnostic: Diagnostic): void {
    const { file, line, column, reason, path, message } = diagnostic;
    const key = JSON.stringify([file, line, column, reason, path, message]);
    if (this.#seen.has(key) || list.length >= MAX_DIAGNOSTICS) return;
    this.#seen.add(key);
    list.push(diagnostic);
  }
}

function placeOf({ file, line, column }: Place): Place {
  return { file, line, column };
}

/** One line for people: `compose.yaml:12:5: services.web.ports[0]: … (REASON). advice`. */
export function diagnosticLine(diagnostic: Diagnostic): string {
  const { file, line, column, path, message, reason, advice } = diagnostic;
  const where = line > 0 ? `${file}:${line}:${column}` : file;
  return `${where}: ${path === "" ? "" : `${path}: `}${message} (${reason}). ${advice}`;
}
