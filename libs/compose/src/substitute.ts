/** Interpolation of a file's tree: in values and not in keys, before anything is merged. */
import { interpolate, InterpolationError, type Interpolation } from "./interpolate.ts";
import { MAX_INTERPOLATED_CHARS } from "./limits.ts";
import type { Path, Report } from "./report.ts";
import type { Scalar, Tree } from "./tree.ts";

/** Variables, and what the files of one call share: what may still be made, and which variables were said to be unset. */
export interface Substitution {
  readonly variables: Readonly<Record<string, string>>;
  readonly shared: { readonly unset: Set<string>; budget: number };
}

/** For one call. */
export function newSubstitution(variables: Readonly<Record<string, string>>): Substitution {
  return { variables, shared: { unset: new Set(), budget: MAX_INTERPOLATED_CHARS } };
}

const advices = {
  INTERPOLATION_INVALID: "Write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${NAME:+value}; $$ is a literal dollar.",
  VARIABLE_REQUIRED: "Set the variable, in the environment or the env file that you give.",
  TOO_DEEP: "Nest fewer expressions.",
  TOO_LARGE: "Use shorter values.",
} as const;

/** The tree with variables replaced. Extension fields (`x-…`) stay as they are: nothing reads them. */
export function substitute(tree: Tree, substitution: Substitution, report: Report, path: Path = []): Tree {
  if (tree.tag === "reset") return tree;
  if (tree.kind === "scalar") return scalarOf(tree, substitution, report, path);
  if (tree.kind === "sequence") {
    const items = tree.items.map((item, index) => substitute(item, substitution, report, [...path, index]));
    return { ...tree, items };
  }
  const entries = new Map<string, Tree>();
  for (const [key, value] of tree.entries)
    entries.set(key, key.startsWith("x-") ? value : substitute(value, substitution, report, [...path, key]));
  return { ...tree, entries };
}

/** The text with variables replaced; undefined where it cannot be, which the report then says. */
export function substituteText(
  text: string,
  at: Scalar["at"],
  path: Path,
  substitution: Substitution,
  report: Report,
): string | undefined {
  const context: Interpolation = {
    variables: substitution.variables,
    budget: substitution.shared.budget,
    unset: (name) => {
      if (substitution.shared.unset.has(name)) return;
      substitution.shared.unset.add(name);
      const advice = `Set it, or give a default: \${${name}:-value}.`;
      report.warn("VARIABLE_UNSET", at, path, `the variable ${name} is not set and counts as empty`, advice);
    },
  };
  try {
    return interpolate(text, context);
  } catch (error) {
    if (!(error instanceof InterpolationError)) throw error;
    if (error.reason === "TOO_LARGE") report.stop(error.reason, at, path, error.message, advices[error.reason]);
    report.error(error.reason, at, path, error.message, advices[error.reason]);
    return undefined;
  } finally {
    substitution.shared.budget = context.budget;
  }
}

function scalarOf(scalar: Scalar, substitution: Substitution, report: Report, path: Path): Scalar {
  if (typeof scalar.value !== "string" || !scalar.value.includes("$")) return scalar;
  const text = substituteText(scalar.value, scalar.at, path, substitution, report) ?? scalar.value;
  // The one place where the schema wants a boolean and no string.
  const truth =
    path.at(-1) === "required" && path.at(-3) === "depends_on" && !scalar.quoted && /^(true|false)$/.test(text);
  return { ...scalar, value: truth ? text === "true" : text, source: text };
}
