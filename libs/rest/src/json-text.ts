/**
 * JSON as it comes from outside: strict UTF-8, no key twice, bounded depth, and
 * only text that every store behind us can hold (no U+0000, no half surrogates).
 */
import type { JsonValue } from "@bufbuild/protobuf";
import { problem } from "@bowline/kernel";

/** Reads a body. Throws MALFORMED_BODY, with the path where there is one. An empty body is undefined. */
export function readJson(bytes: Uint8Array, maxDepth: number): JsonValue | undefined {
  const text = utf8(bytes);
  if (text.trim() === "") return undefined;
  let value: JsonValue;
  try {
    value = JSON.parse(text) as JsonValue;
  } catch (error) {
    throw problem("MALFORMED_BODY", `The body is not JSON: ${whereItBroke(text, error)}.`);
  }
  const wrong = findWrong(text, maxDepth);
  if (wrong !== undefined) {
    throw problem("MALFORMED_BODY", `${wrong.field === "" ? "The body" : wrong.field} ${wrong.description}.`, {
      violations: [wrong],
    });
  }
  return value;
}

function utf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw problem("MALFORMED_BODY", "The body is not UTF-8."); // what the decoder throws says no more
  }
}

/** Line and column instead of the engine's message, which quotes the body: it may hold secrets. */
function whereItBroke(text: string, error: unknown): string {
  const position = /position (\d+)/.exec(String(error))?.[1];
  if (position === undefined || Number(position) >= text.length) return "it ends too early";
  const before = text.slice(0, Number(position));
  const line = before.split("\n").length;
  return `it breaks at line ${line}, column ${before.length - before.lastIndexOf("\n")}`;
}

/** An object or list that is open: its keys so far, and where in it the scan is. */
type Open = { keys: Set<string> | undefined; at: string | number };

/** Scans text that JSON.parse has taken, so it may trust its form. Linear in the text. */
function findWrong(text: string, maxDepth: number): { field: string; description: string } | undefined {
  const open: Open[] = [];
  let expectKey = false;
  for (let i = 0; i < text.length; i += 1) {
    const inside = open.at(-1);
    switch (text[i]) {
      case "{":
      case "[":
        if (open.length >= maxDepth) return { field: "", description: `nests deeper than ${maxDepth}` };
        expectKey = text[i] === "{";
        open.push({ keys: expectKey ? new Set() : undefined, at: expectKey ? "" : 0 });
        break;
      case "}":
      case "]":
        open.pop();
        expectKey = false;
        break;
      case ",":
        expectKey = inside?.keys !== undefined;
        if (typeof inside?.at === "number") inside.at += 1;
        break;
      case '"': {
        const end = endOfString(text, i);
        const string = JSON.parse(text.slice(i, end + 1)) as string;
        i = end;
        if (expectKey && inside?.keys !== undefined) {
          inside.at = string;
          if (inside.keys.has(string)) return { field: pathOf(open), description: "is there twice" };
          inside.keys.add(string);
        }
        if (string.includes("\0")) return { field: pathOf(open), description: "contains the character U+0000" };
        if (!string.isWellFormed()) return { field: pathOf(open), description: "contains half a surrogate pair" };
        expectKey = false;
        break;
      }
    }
  }
  return undefined;
}

function endOfString(text: string, start: number): number {
  let i = start + 1;
  while (text[i] !== '"') i += text[i] === "\\" ? 2 : 1;
  return i;
}

function pathOf(open: readonly Open[]): string {
  const path = open.map(({ at }) => (typeof at === "number" ? `[${at}]` : `.${shortened(at)}`)).join("");
  return path.replace(/^\./, "");
}

/** Longest part of what somebody sent that an answer repeats. */
const maxQuoted = 100;

/** What somebody sent, short enough to be repeated in an answer, and without control characters. */
export function shortened(text: string): string {
  const plain = text.replace(/[\p{Cc}\p{Cs}]/gu, "\u{FFFD}");
  return plain.length <= maxQuoted ? plain : `${plain.slice(0, maxQuoted)}…`;
}
