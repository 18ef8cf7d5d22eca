/**
 * A command written as one string, split as a POSIX shell splits words: blanks
 * separate, quotes and backslashes keep. Nothing else of a shell: no variable,
 * no pipe, no glob.
 */
import { Unreadable } from "./unreadable.ts";

/** The words of a command line. */
export function words(text: string): string[] {
  const found: string[] = [];
  let word: string | undefined;
  let quote = "";
  for (let at = 0; at < text.length; at += 1) {
    const sign = text[at] ?? "";
    if (quote === "'") {
      if (sign === "'") quote = "";
      else word += sign;
    } else if (sign === "\\") {
      const next = text[at + 1];
      at += 1;
      if (next === undefined) throw new Unreadable("a backslash at the end of the command", "Remove it, or double it.");
      if (next === "\n") continue; // a continued line
      word = (word ?? "") + (quote === '"' && !'"\\$`'.includes(next) ? `\\${next}` : next);
    } else if (quote === '"') {
      if (sign === '"') quote = "";
      else word += sign;
    } else if (sign === "'" || sign === '"') {
      quote = sign;
      word ??= "";
    } else if (/\s/.test(sign)) {
      if (word !== undefined) found.push(word);
      word = undefined;
    } else word = (word ?? "") + sign;
  }
  if (quote !== "") throw new Unreadable(`a quote (${quote}) without its end`, "Close the quote, or write a list.");
  if (word !== undefined) found.push(word);
  return found;
}
