/**
 * Texts for people: what the database and every terminal can show.
 *
 * The proto limits their length; control characters, NUL above all, can be stored by nobody.
 */
import type { Violation } from "@bowline/kernel";

const lineControls = /\p{Cc}|[\u2028\u2029]/u;
const blockControls = /(?![\t\n\r])\p{Cc}/u;

/** What is wrong with the texts of a resource. `at` is its own path. */
export function textViolations(item: { displayName: string; description?: string }, at: string): Violation[] {
  const found: Violation[] = [];
  const prefix = at === "" ? "" : `${at}.`;
  if (lineControls.test(item.displayName) || !item.displayName.isWellFormed())
    found.push({ field: `${prefix}display_name`, description: "One line without control characters is expected." });
  const { description = "" } = item;
  if (blockControls.test(description) || !description.isWellFormed())
    found.push({ field: `${prefix}description`, description: "Control characters other than line breaks and tabs." });
  return found;
}

/** True where a text has something that no header, query or label may have. */
export function hasControls(text: string): boolean {
  return lineControls.test(text) || !text.isWellFormed();
}
