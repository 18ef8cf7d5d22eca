/** What differs between two contents, as lines. */
import { Change_Kind } from "@bowline/contract/products";
import type { Change } from "@bowline/contract/products";
import { plain } from "../text.ts";

const marks = { [Change_Kind.ADDED]: "+", [Change_Kind.REMOVED]: "-", [Change_Kind.CHANGED]: "~" } as const;
/** Longer values are cut; `--output json` has all of them. */
const maxValueLength = 100;

/** `+ api_services/hello/routes/time`, with the values below where something changed. */
export function changeLines(changes: readonly Change[]): string[] {
  return changes.flatMap((change) => {
    const mark = change.kind === Change_Kind.KIND_UNSPECIFIED ? "?" : (marks[change.kind as keyof typeof marks] ?? "?");
    const head = `${mark} ${plain(change.path)}`;
    if (change.kind !== Change_Kind.CHANGED) return [head];
    return [head, `    before  ${short(change.before)}`, `    after   ${short(change.after)}`];
  });
}

function short(value: string): string {
  const line = plain(value);
  return line.length <= maxValueLength ? line : `${line.slice(0, maxValueLength)}…`;
}
