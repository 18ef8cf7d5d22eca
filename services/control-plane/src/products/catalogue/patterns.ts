/**
 * Regular expressions of routes. They are of the RE2 kind, so that a data plane
 * can match them in time linear in the request.
 *
 * X1: no back-references and no look-around: RE2 has none, and with them matching can take exponential time.
 * X2: no repetition inside a repetition: RE2 would bear it, but gateway classes whose engine backtracks would not.
 */
import { RE2JS } from "re2js";
import { hasControls } from "./texts.ts";

/** Deeper than people write; keeps the checks away from the stack's end. */
const maxDepth = 32;
/** The largest count in `{n,m}`, as RE2 has it. */
const maxRepeat = 1_000;
/** RE2 unrolls counted repetitions: nested or large ones cost memory in every data plane. */
const maxUnrolled = 1_000;

/** What is wrong with a regular expression, as a sentence; undefined: nothing. */
export function patternProblem(source: string): string | undefined {
  if (hasControls(source)) return "must not contain control characters; write them as \\x00";
  const risky = constructProblem(source);
  if (risky !== undefined) return risky;
  try {
    RE2JS.compile(source);
    return undefined;
  } catch (error) {
    return `is not a regular expression of the RE2 kind: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** An open group, and whether something in it repeats. */
interface Group {
  repeats: boolean;
  /** How many copies RE2 makes of what is in it. */
  unrolled: number;
}

function constructProblem(source: string): string | undefined {
  const groups: Group[] = [{ repeats: false, unrolled: 0 }];
  /** The group that ended just before the quantifier that may follow. */
  let ended: Group | undefined;
  for (let at = 0; at < source.length;) {
    const open = groups.at(-1);
    if (open === undefined) break;
    const rest = source.slice(at);
    const quantifier = /^(?:[*+?]|\{(\d+)(,(\d*))?\})[?+]?/.exec(rest);
    if (quantifier !== null && at > 0) {
      const [text, least, , most] = quantifier;
      const counts = [least, most].filter((count) => count !== undefined && count !== "").map(Number);
      if (counts.some((count) => count > maxRepeat)) return `repeats more than ${maxRepeat} times`;
      const times = Math.max(1, ...counts);
      const exact = least !== undefined && (quantifier[2] === undefined || most === least);
      const fixed = exact || text.startsWith("?");
      if (!fixed && ended?.repeats === true)
        return "has a repetition inside a repetition, such as (a+)+; that can be written without"; // X2
      open.repeats ||= !fixed || ended?.repeats === true;
      open.unrolled += (ended?.unrolled ?? 1) * (times - 1);
      if (open.unrolled > maxUnrolled) return "repeats too much by its counts";
      ended = undefined;
      at += text.length;
      continue;
    }
    if (ended !== undefined) {
      open.repeats ||= ended.repeats;
      ended = undefined;
    }
    const next = step(rest);
    if (next.problem !== undefined) return next.problem;
    if (next.kind === "open") {
      if (groups.length > maxDepth) return `has groups more than ${maxDepth} deep`;
      groups.push({ repeats: false, unrolled: 0 });
    } else if (next.kind === "close") {
      if (groups.length === 1) return "has a ) without a (";
      groups.pop();
      ended = open;
      const outer = groups.at(-1);
      if (outer !== undefined) outer.unrolled += open.unrolled;
    } else open.unrolled += 1;
    at += next.length;
  }
  return undefined;
}

type Step = { kind: "atom" | "open" | "close"; length: number; problem?: string };

/** The next piece of a pattern that is no quantifier. */
function step(rest: string): Step {
  if (/^\(\?<?[=!]/.test(rest))
    return { kind: "open", length: 1, problem: "must not look ahead or behind ((?=, (?!, (?<=, (?<!)" }; // X1
  if (/^\\([1-9]|k[<{'])/.test(rest) || rest.startsWith("(?P="))
    return { kind: "atom", length: 1, problem: "must not refer back to a group (\\1, \\k<name>)" }; // X1
  if (rest.startsWith("(?>")) return { kind: "open", length: 1, problem: "must not have an atomic group (?>" };
  const quoted = /^\\Q[\s\S]*?(?:\\E|$)/.exec(rest);
  if (quoted !== null) return { kind: "atom", length: quoted[0].length };
  const flags = /^\(\?[a-zA-Z-]*\)/.exec(rest);
  if (flags !== null) return { kind: "atom", length: flags[0].length };
  if (rest.startsWith("\\")) return { kind: "atom", length: 2 };
  // A ] right after [ or [^ is itself a member; [:alpha:] has brackets of its own.
  const set = /^\[\^?\]?(?:\[:\^?[a-z]+:\]|\\[\s\S]|[^\]\\])*\]/.exec(rest);
  if (set !== null) return { kind: "atom", length: set[0].length };
  const open = /^\((?:\?(?:P?<[A-Za-z_]\w*>|[a-zA-Z-]*:))?/.exec(rest);
  if (open !== null) return { kind: "open", length: open[0].length };
  if (rest.startsWith(")")) return { kind: "close", length: 1 };
  return { kind: "atom", length: 1 };
}
