/**
 * The content of an env file: `NAME=value` lines, comments, quotes, `export`.
 * Unquoted and double-quoted values are interpolated, single-quoted ones are
 * not; a quoted value may go over several lines. `raw` takes each line as it is.
 *
 * F1: the work grows as the file does, whatever is in it: each line is looked
 *     at once, also below a quote that never ends.
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
      const parts = [value.slice(1)];
      let closes = end(parts[0] ?? "", quote);
      while (closes < 0 && at + 1 < lines.length) {
        parts.push(lines[(at += 1)] ?? "");
        closes = end(parts.at(-1) ?? "", quote);
      }
      if (closes < 0) throw new Unreadable(`line ${first} has a quote without its end`, "Close the quote.");
      const inner = [...parts.slice(0, -1), (parts.at(-1) ?? "").slice(0, closes)].join("\n");
      value = quote === "'" ? inner : unescaped(inner);
    } else value = withoutComment(value);
    if (quote !== "'") value = expanded(value, context, first);
    found.set(key, value);
    if (!Object.hasOwn(variables, key)) context.variables[key] = value;
  }
  return found;
}

/** Where a quoted value ends in one of its lines; a backslash before the line's end escapes nothing of the next. */
function end(line: string, quote: string): number {
  for (let at = 0; at < line.length; at += 1) {
    if (line[at] === "\\" && quote === '"') at += 1;
    else if (line[at] === quote) return at;
  }
  return -1;
}

/** No pattern up to the end of the line: signs that end a line for a pattern only would be tried from each `#` (F1). */
function withoutComment(value: string): string {
  const comment = value.search(/(?:^|\s)#/);
  return (comment < 0 ? value : value.slice(0, comment)).trimEnd();
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
