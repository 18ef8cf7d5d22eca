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

/** What every data plane answers itself, on every listener: the probe that tells what it serves. */
const reservedPrefix = "/.well-known/bowline/";

/** As pathProblem, for a path that a route is to answer. */
export function matchedPathProblem(path: string): string | undefined {
  const wrong = pathProblem(path);
  if (wrong === undefined && normalPath(path).startsWith(reservedPrefix))
    return `is below ${reservedPrefix}, which is the data plane's own`;
  return wrong;
}

/** The path in the one form that is matched: unreserved characters decoded, other escapes in upper case (RFC 3986). */
export function normalPath(path: string): string {
  return path.replace(/%[0-9a-f]{2}/gi, (escape) => {
    const character = String.fromCharCode(Number.parseInt(escape.slice(1), 16));
    return /[\w.~-]/.test(character) ? character : escape.toUpperCase();
  });
}
