/**
 * `.env` files, and the variables that a text refers to, as Compose reads them:
 * `NAME=value` lines, comments, quotes, `export`. Unquoted and double-quoted
 * values are interpolated, single-quoted ones are not.
 */

type Lookup = (name: string) => string | undefined;
type Variables = Readonly<Record<string, string | undefined>>;

/** Defaults within defaults; who nests deeper gets the text as it stands. */
const maxDepth = 16;

const entry = /^\s*(?:export\s+)?([A-Za-z_][\w.-]*)\s*(?:[=:]\s*(.*))?$/;

/**
 * The variables of a file, in its order. A name alone takes the value of
 * `around`, which also wins where a value refers to a name of both. Lines that
 * are none are handed to `wrong`, by number.
 */
export function readDotenv(text: string, around: Variables, wrong: (line: number) => void): Record<string, string> {
  const found = Object.create(null) as Record<string, string>;
  const lookup: Lookup = (name) => around[name] ?? found[name];
  const lines = text.replace(/^\uFEFF/, "").split(/\r?\n/);
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at] ?? "";
    if (line.trim() === "" || line.trimStart().startsWith("#")) continue;
    const [matched, name = "", rest] = entry.exec(line) ?? [];
    if (matched === undefined) wrong(at + 1);
    else if (rest === undefined) {
      const value = lookup(name);
      if (value !== undefined) found[name] = value;
    } else {
      const first = at + 1;
      const quote = rest[0];
      let value = rest;
      if (quote !== '"' && quote !== "'") {
        found[name] = expand(value.replace(/(^|\s)#.*$/, "").trimEnd(), lookup);
        continue;
      }
      while (closing(value, quote) < 0 && at + 1 < lines.length) value += `\n${lines[(at += 1)]}`;
      const closes = closing(value, quote);
      if (closes < 0) wrong(first);
      else if (quote === "'") found[name] = value.slice(1, closes);
      else found[name] = expand(unescaped(value.slice(1, closes)), lookup);
    }
  }
  return found;
}

function closing(value: string, quote: string): number {
  for (let at = 1; at < value.length; at += 1) {
    if (value[at] === "\\" && quote === '"') at += 1;
    else if (value[at] === quote) return at;
  }
  return -1;
}

function unescaped(text: string): string {
  const signs: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t", '"': '"', "\\": "\\", $: "$$" };
  return text.replaceAll(/\\(.)/gs, (all: string, sign: string) => signs[sign] ?? all);
}

/** A line of such a file that is read as just this value. */
export function dotenvLine(name: string, value: string): string {
  return `${name}="${value.replaceAll(/[\\"$]/g, (sign) => `\\${sign}`)}"`;
}

/** Names that `$NAME` and `${NAME…}` of a text refer to, also within defaults. */
export function variablesIn(text: string): string[] {
  return [...text.matchAll(/\$\$|\$\{?([A-Za-z_]\w*)/g)].flatMap(([, name]) => name ?? []);
}

/** The text with its variables' values. What is no expression stays as it stands. */
export function expand(text: string, lookup: Lookup, depth = 0): string {
  if (depth > maxDepth || !text.includes("$")) return text;
  let out = "";
  for (let at = 0; at < text.length;) {
    const { value, length } = text[at] === "$" ? one(text, at, lookup, depth) : { value: text[at] ?? "", length: 1 };
    out += value;
    at += length;
  }
  return out;
}

/** The expression at a dollar, and how long it is. */
function one(text: string, at: number, lookup: Lookup, depth: number): { value: string; length: number } {
  if (text[at + 1] === "$") return { value: "$", length: 2 };
  const bare = /[A-Za-z_]\w*/y;
  bare.lastIndex = at + 1;
  const [plain] = bare.exec(text) ?? [];
  if (plain !== undefined) return { value: lookup(plain) ?? "", length: plain.length + 1 };
  const end = text[at + 1] === "{" ? brace(text, at + 1) : -1;
  const inner = end < 0 ? null : /^([A-Za-z_]\w*)(:?[-+?])?([\s\S]*)$/.exec(text.slice(at + 2, end));
  if (inner === null) return { value: "$", length: 1 };
  const [, name = "", operator = "", word = ""] = inner;
  const value = lookup(name);
  const isSet = value !== undefined && !(operator.startsWith(":") && value === "");
  const other = (): string => expand(word, lookup, depth + 1);
  const length = end - at + 1;
  if (operator.endsWith("+")) return { value: isSet ? other() : "", length };
  if (operator.endsWith("-")) return { value: isSet ? value : other(), length };
  return { value: value ?? "", length };
}

/** Where the brace at `from` closes; -1: nowhere. */
function brace(text: string, from: number): number {
  let depth = 0;
  for (let at = from; at < text.length; at += 1) {
    if (text[at] === "{") depth += 1;
    else if (text[at] === "}") depth -= 1;
    if (depth === 0) return at;
  }
  return -1;
}
