/**
 * Variables in strings, as the Compose specification has them: `$NAME`,
 * `${NAME}`, `:-` `-` (a default), `:?` `?` (required), `:+` `+` (a replacement),
 * nested, and `$$` for one dollar. Any other `$` stays as it is.
 *
 * V1: this throws nothing but InterpolationError, whatever the text.
 */
import { MAX_INTERPOLATION_DEPTH } from "./limits.ts";

/** Variables by name. */
export type Variables = Readonly<Record<string, string>>;

/** Why a text cannot be interpolated. */
export class InterpolationError extends Error {
  readonly reason: "INTERPOLATION_INVALID" | "VARIABLE_REQUIRED" | "TOO_DEEP" | "TOO_LARGE";

  constructor(reason: InterpolationError["reason"], message: string) {
    super(message);
    this.reason = reason;
  }
}

/** What interpolation tells, and what it may cost. */
export interface Interpolation {
  readonly variables: Variables;
  /** Told of each variable that is not set and has no default. */
  readonly unset: (name: string) => void;
  /** Characters that may still be made. */
  budget: number;
}

const operators = [":-", ":?", ":+", "-", "?", "+"] as const;

/** The text with its variables replaced. */
export function interpolate(text: string, context: Interpolation, depth = 0): string {
  if (!text.includes("$")) return text;
  if (depth > MAX_INTERPOLATION_DEPTH)
    throw new InterpolationError("TOO_DEEP", `expressions nested deeper than ${MAX_INTERPOLATION_DEPTH}`);
  const parts: string[] = [];
  const push = (part: string) => {
    context.budget -= part.length;
    if (context.budget < 0) throw new InterpolationError("TOO_LARGE", "interpolation makes more text than the limit");
    parts.push(part);
  };
  let rest = 0;
  while (rest < text.length) {
    const dollar = text.indexOf("$", rest);
    if (dollar < 0) break;
    push(text.slice(rest, dollar));
    const next = text[dollar + 1];
    if (next === "$") {
      push("$");
      rest = dollar + 2;
    } else if (next === "{") {
      const end = closing(text, dollar);
      push(braced(text.slice(dollar + 2, end), context, depth));
      rest = end + 1;
    } else {
      const name = nameAt(text, dollar + 1);
      push(name === "" ? "$" : plainValue(name, context));
      rest = dollar + 1 + name.length;
    }
  }
  push(text.slice(rest));
  return parts.join("");
}

function nameAt(text: string, from: number): string {
  const name = /[A-Za-z_][A-Za-z0-9_]*/y;
  name.lastIndex = from;
  return name.exec(text)?.[0] ?? "";
}

/** The brace that ends the expression at `dollar`; only `${` opens another. */
function closing(text: string, dollar: number): number {
  let open = 0;
  for (let at = dollar; at < text.length; at += 1) {
    if (text[at] === "}") {
      open -= 1;
      if (open === 0) return at;
    } else if (text[at] === "$" && text[at + 1] === "{") {
      open += 1;
      at += 1;
    }
  }
  throw new InterpolationError("INTERPOLATION_INVALID", "a `${` without its `}`");
}

function lookUp(name: string, { variables }: Interpolation): string | undefined {
  return Object.hasOwn(variables, name) ? variables[name] : undefined;
}

function plainValue(name: string, context: Interpolation): string {
  const value = lookUp(name, context);
  if (value === undefined) context.unset(name);
  return value ?? "";
}

/** What stands between the braces. */
function braced(inside: string, context: Interpolation, depth: number): string {
  const name = nameAt(inside, 0);
  const tail = inside.slice(name.length);
  const operator = operators.find((sign) => tail.startsWith(sign));
  if (name === "" || (tail !== "" && operator === undefined))
    throw new InterpolationError("INTERPOLATION_INVALID", `\${${shortened(inside)}} is no variable expression`);
  if (operator === undefined) return plainValue(name, context);
  const word = () => interpolate(tail.slice(operator.length), context, depth + 1);
  const value = lookUp(name, context);
  const present = operator.startsWith(":") ? value !== undefined && value !== "" : value !== undefined;
  if (operator.endsWith("+")) return present ? word() : "";
  if (present) return value ?? "";
  if (operator.endsWith("-")) return word();
  const message = word();
  throw new InterpolationError(
    "VARIABLE_REQUIRED",
    `the variable ${name} is ${value === undefined ? "not set" : "empty"}${message === "" ? "" : `: ${message}`}`,
  );
}

function shortened(text: string): string {
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}
