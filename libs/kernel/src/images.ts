/** References of images, as far as both ends read them alike. */

/** What a reference without a host is of. */
export const defaultRegistry = "docker.io";

/**
 * The registry that a reference is of: the host that it begins with, as Docker
 * reads it. `team/app` and `nginx:1` are of `docker.io`.
 */
export function registryOf(reference: string): string {
  const slash = reference.indexOf("/");
  const first = slash < 0 ? "" : reference.slice(0, slash);
  const isHost = /[.:]/.test(first) || first === "localhost" || first !== first.toLowerCase();
  return isHost ? plainHost(first) : defaultRegistry;
}

/**
 * A registry's host as people write it, in its one spelling; undefined where it
 * is none: a host or address, with a port or without, and nothing else.
 */
export function registryHost(text: string): string | undefined {
  const [, name = "", port] = /^(\[[0-9a-f:]+\]|[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::(\d{1,5}))?$/i.exec(text) ?? [];
  if (name === "" || name.includes("..") || (port !== undefined && (Number(port) < 1 || Number(port) > 65_535)))
    return undefined;
  // What Docker would not take for a host is the first part of a name at docker.io.
  const isHost = port !== undefined || /[.:]/.test(name) || name.toLowerCase() === "localhost";
  return isHost ? plainHost(text) : undefined;
}

function plainHost(text: string): string {
  const host = text.toLowerCase();
  return host === "index.docker.io" ? defaultRegistry : host;
}
