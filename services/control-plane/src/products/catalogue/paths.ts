/** Literal paths, in matches and as what a request gets. */

/** What is wrong with a literal path, as the Gateway API defines it; undefined: nothing. */
export function pathProblem(path: string): string | undefined {
  if (!path.startsWith("/")) return "must start with /";
  if (/[^\x21-\x7e]/.test(path))
    return "must not contain spaces, control characters or characters beyond ASCII; percent-encode them";
  if (/[?#\\]/.test(path)) return "must not contain ?, # or a backslash";
  if (path.includes("//")) return "must not contain //";
  if (/%(?![0-9a-f]{2})/i.test(path)) return "has a % that two hexadecimal digits do not follow";
  if (/%(2f|5c|00)/i.test(path)) return "must not contain an encoded slash, backslash or NUL";
  if (/\/(\.|%2e){1,2}(?:\/|;|$)/i.test(path)) return "must not contain the elements . or ..";
  return undefined;
}
