/**
 * One form for every path, before it is matched and as it is sent on, so that
 * no backend sees another path than the one that was matched.
 *
 * - Percent-encoded unreserved characters are decoded, other hex digits become
 *   upper case (RFC 3986, 6.2.2).
 * - `.` and `..` segments are resolved, also percent-encoded ones. A path that
 *   leaves the root is refused.
 * - An encoded slash or backslash stays encoded and separates nothing, but is
 *   refused beside a dot segment; so is `..;`, which some backends resolve.
 * - Empty segments (`//`) stay: they mean what the backend makes of them.
 * - A literal backslash, `#`, controls, NUL, non-ASCII and broken percent
 *   encodings are refused.
 */

const forbidden = /[^\x21-\x7e]|[\\#]/;
const unreserved = /[A-Za-z0-9\-._~]/;

/** The form to match and to send; undefined: to be refused. `path` has no query. */
export function normalisePath(path: string): string | undefined {
  if (!path.startsWith("/") || forbidden.test(path)) return undefined;
  const decoded = path.includes("%") ? decodeUnreserved(path) : path;
  if (decoded === undefined) return undefined;
  return decoded.includes("/.") || decoded.includes("%") ? resolveDots(decoded) : decoded;
}

function decodeUnreserved(path: string): string | undefined {
  let sound = true;
  const decoded = path.replace(/%(..)?/g, (whole, hex: string | undefined) => {
    if (hex === undefined || !/^[0-9A-Fa-f]{2}$/.test(hex) || hex === "00") {
      sound = false;
      return whole;
    }
    const character = String.fromCharCode(Number.parseInt(hex, 16));
    return unreserved.test(character) ? character : whole.toUpperCase();
  });
  return sound ? decoded : undefined;
}

function resolveDots(path: string): string | undefined {
  const out: string[] = [];
  const segments = path.split("/").slice(1);
  for (const [i, segment] of segments.entries()) {
    const last = i === segments.length - 1;
    if (segment === ".") {
      if (last) out.push("");
    } else if (segment === "..") {
      if (out.pop() === undefined) return undefined;
      if (last) out.push("");
    } else if (segment.split(/%2F|%5C/).some(isHiddenDots)) {
      return undefined;
    } else {
      out.push(segment);
    }
  }
  return `/${out.join("/")}`;
}

function isHiddenDots(part: string): boolean {
  const bare = part.split(/;|%3B/, 1)[0]!;
  return bare === "." || bare === "..";
}

/** A request target apart: where it goes, its path in one form, its query with `?` as it came. */
export interface Target {
  /** Host of an absolute target; undefined: the Host header decides. */
  authority: string | undefined;
  path: string;
  search: string;
}

/** Undefined: to be refused. */
export function readTarget(target: string): Target | undefined {
  let rest = target;
  let authority: string | undefined;
  if (!target.startsWith("/")) {
    const absolute = /^http:\/\/([^/?#]*)(.*)$/i.exec(target);
    if (absolute === null) return undefined;
    authority = absolute[1]!;
    rest = absolute[2]!.startsWith("/") ? absolute[2]! : `/${absolute[2]!}`;
  }
  const question = rest.indexOf("?");
  const path = normalisePath(question < 0 ? rest : rest.slice(0, question));
  const search = question < 0 ? "" : rest.slice(question);
  if (path === undefined || /[^\x21-\x7e]|#/.test(search)) return undefined;
  return { authority, path, search };
}

const hostName = /^(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*$/;

/** The host of a Host header or authority: lower case, without port or last dot; undefined: to be refused. */
export function readHost(authority: string): string | undefined {
  const parts = /^(\[[0-9A-Fa-f:.]+\]|[^:[\]]*)(?::\d{0,5})?$/.exec(authority);
  if (parts === null) return undefined;
  const host = parts[1]!.toLowerCase().replace(/\.$/, "");
  return host.startsWith("[") || (host.length <= 253 && hostName.test(host)) ? host : undefined;
}

/** What `replace` makes of a path that `prefix` (without a last slash) has matched. The Gateway API's table. */
export function replacePrefix(path: string, prefix: string, replace: string): string {
  const rest = path.slice(prefix.length);
  const base = replace.endsWith("/") ? replace.slice(0, -1) : replace;
  return rest === "" ? replace || "/" : base + rest;
}
