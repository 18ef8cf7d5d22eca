/**
 * Path templates of `google.api.http`: literal segments, `{field.path}` for one
 * segment, and a `:verb` at the end.
 *
 * T1: a template that this cannot serve (`**`, `{a=b/*}`) fails at start, not at a request.
 * T2: values are decoded segment by segment, so an encoded slash stays inside its value.
 */
export type Template = {
  /** As the proto has it. */
  source: string;
  segments: readonly ({ literal: string } | { variable: string })[];
  /** Without its colon; empty: none. */
  verb: string;
};

/** What a path says: raw segments, not yet decoded, and the verb. */
export type SplitPath = { segments: readonly string[]; verb: string };

const variablePattern = /^\{([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*)\}$/;
const literalPattern = /^[A-Za-z0-9._~-]+$/;
const verbPattern = /:([a-zA-Z][a-zA-Z0-9_-]*)$/;

/** Reads a template. Throws on what is not served here (T1). */
export function parseTemplate(source: string): Template {
  if (!source.startsWith("/")) throw new Error(`path template ${source} does not begin with a slash`);
  const verb = verbPattern.exec(source)?.[1] ?? "";
  const path = verb === "" ? source : source.slice(0, -verb.length - 1);
  const segments = path
    .slice(1)
    .split("/")
    .map((segment) => {
      const variable = variablePattern.exec(segment)?.[1];
      if (variable !== undefined) return { variable };
      if (!literalPattern.test(segment)) throw new Error(`path template ${source}: unsupported segment ${segment}`);
      return { literal: segment };
    });
  return { source, segments, verb };
}

/** Splits a request's path. A colon in the last segment begins a verb; as part of a value it is sent encoded. */
export function splitPath(path: string): SplitPath {
  const segments = path.slice(1).split("/");
  const last = segments.at(-1) ?? "";
  const colon = last.lastIndexOf(":");
  if (colon < 0) return { segments, verb: "" };
  return { segments: [...segments.slice(0, -1), last.slice(0, colon)], verb: last.slice(colon + 1) };
}

/** The raw values of the variables, by field path; undefined where the path is another one. */
export function matchTemplate(template: Template, path: SplitPath): Map<string, string> | undefined {
  if (template.verb !== path.verb || template.segments.length !== path.segments.length) return undefined;
  const variables = new Map<string, string>();
  for (const [at, segment] of template.segments.entries()) {
    const given = path.segments[at] ?? "";
    if ("literal" in segment) {
      if (segment.literal !== given) return undefined;
    } else {
      if (given === "") return undefined;
      variables.set(segment.variable, given);
    }
  }
  return variables;
}
