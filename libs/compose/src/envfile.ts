/**
 * The content of an env file: `NAME=value` lines, comments, quotes, `export`.
 * Unquoted and double-quoted values are interpolated, single-quoted ones are
 * not; a quoted value may go over several lines. `raw` takes each line as it is.
 */
import { interpolate, InterpolationError, type Variables } from "./interpolate.ts";
import { Unreadable } from "./unreadable.ts";

const name = /^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*(?:[=:]\s?(.*))?$/;

/**
 * The variables of a file, in its order. A name alone takes the value of the
 * surrounding variables. Throws Unreadable with the line.
 */
export function readEnvFile(
  text: string,
  variables: Variables,
  raw: boolean,
  budget = text.length * 16 + 65_536,
): Map<string, string> {
  const found = new Map<string, string>();
  const lines = text.replace(/^\uFEFF/, "").split(/\r?\n/);
  const context = {
    variables: Object.assign(Object.create(null), variables) as Record<string, string>,
    unset: () => {},
    budget,
  };
  for (let at = 0; at < lines.length; at += 1) {
    const first = at + 1;
    const line = lines[at] ?? "";
    if (line.trim() === "" || line.trimStart().startsWith("#")) continue;
    const [matched, key = "", rest] = (raw ? /^([^=\s]+)=(.*)$/s : name).exec(line) ?? [];
    if (matched === undefined)
      throw new Unreadable(`line ${first} is no NAME=value`, "Write NAME=value, or # before a comment.");
    if (rest === undefined) {
      if (Object.hasOwn(variables, key)) found.set(key, variables[key] ?? "");
      continue;
    }
    if (raw) {
      found.set(key, rest);
      continue;
    }
    let value = rest.trimStart();
    const quote = value[0];
    if (quote === '"' || quote === "'") {
      while (end(value, quote) < 0 && at + 1 < lines.length) value += `\n${lines[(at += 1)]}`;
      const closes = end(value, quote);
      if (closes < 0) throw new Unreadable(`line ${first} has a quote without its end`, "Close the quote.");
      const inner = value.slice(1, closes);
      value = quote === "'" ? inner : unescaped(inner);
    } else value = value.replace(/(^|\s)#.*$/, "").trimEnd();
    if (quote !== "'") value = expanded(value, context, first);
    found.set(key, value);
    if (!Object.hasOwn(variables, key)) context.variables[key] = value;
  }
  return found;
}

function end(value: string, quote: string): number {
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

function expanded(value: string, context: Parameters<typeof interpolate>[1], line: number): string {
  try {
    return interpolate(value, context);
  } catch (error) {
    if (!(error instanceof InterpolationError)) throw error;
    throw new Unreadable(`line ${line}: ${error.message}`, "Mend the expression, or write $$ for a dollar.");
  }
}
