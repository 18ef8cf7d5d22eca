/**
 * Regular expressions of tenants. They run in time linear in the input (RE2),
 * so that none of them can hold the proxy's one thread. RE2 has no
 * back-references and no look-around: such patterns are refused.
 */
import { RE2JS } from "re2js";

export type Pattern = (text: string) => boolean;

/** The whole text must match. Throws an Error that says what is wrong with it. */
export function compilePattern(source: string): Pattern {
  let compiled: RE2JS;
  try {
    compiled = RE2JS.compile(source);
  } catch (error) {
    throw new Error(`not a regular expression of the RE2 kind: ${(error as Error).message}`, { cause: error });
  }
  return (text) => compiled.testExact(text);
}
