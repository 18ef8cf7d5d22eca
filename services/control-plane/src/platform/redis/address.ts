/**
 * Where Redis is, as BOWLINE_REDIS_URL says it:
 *
 *     redis://[user:password@]host[:6379][/db]           one server; rediss:// with TLS
 *     redis+sentinel://[…@]h1:26379,h2:26379/name[/db]    what the sentinels call `name`
 *     redis+cluster://[…@]h1:6379,h2:6379                 a cluster; any of its nodes
 *     /path/of/redis.sock                                 a unix socket
 */
export type RedisMode = "single" | "sentinel" | "cluster";

export interface RedisAddress {
  mode: RedisMode;
  /** Of a unix socket: one, with the path as host and port 0. */
  nodes: readonly { host: string; port: number }[];
  tls: boolean;
  username: string;
  password: string;
  db: number;
  /** What the sentinels call the master; else empty. */
  master: string;
}

const defaultPort = 6_379;
const defaultSentinelPort = 26_379;
/** More nodes than anybody lists; a typing error without commas is found. */
const maxNodes = 100;

const shape = /^(rediss?)(?:\+(sentinel|cluster))?:\/\/(?:([^@/]*)@)?([^@/?#]+)(?:\/([^?#]*))?$/;
const expected =
  "expected redis://HOST:PORT, rediss://, redis+sentinel://HOST:PORT,HOST:PORT/MASTER, redis+cluster://HOST:PORT,HOST:PORT, or the path of a unix socket";

/** Throws an Error that tells what would be right; it repeats nothing of the URL, where a password may stand at a wrong place. */
export function parseRedisUrl(url: string): RedisAddress {
  if (url.startsWith("/")) return { ...blank, mode: "single", nodes: [{ host: url, port: 0 }] };
  const [, scheme, kind, user = "", hosts = "", path = ""] = shape.exec(url) ?? [];
  if (scheme === undefined) throw new Error(expected);
  const mode = (kind ?? "single") as RedisMode;
  const nodes = hosts.split(",").map((text) => nodeOf(text, mode === "sentinel" ? defaultSentinelPort : defaultPort));
  if (nodes.length > maxNodes) throw new Error(`at most ${maxNodes} nodes; the client finds the others by itself`);
  if (mode === "single" && nodes.length > 1) {
    throw new Error(`${nodes.length} hosts: write redis+sentinel:// or redis+cluster:// for more than one`);
  }
  const parts = path === "" ? [] : path.split("/");
  const master = mode === "sentinel" ? decodeURIComponent(parts.shift() ?? "") : "";
  if (mode === "sentinel" && master === "") throw new Error("the master's name is missing: redis+sentinel://HOST/NAME");
  const [db = "0", ...rest] = parts;
  if (rest.length > 0 || !/^\d{1,5}$/.test(db)) throw new Error("what follows the hosts is no number of a database");
  if (mode === "cluster" && db !== "0") throw new Error("a Redis Cluster has database 0 only");
  const colon = user.indexOf(":");
  return {
    ...blank,
    mode,
    nodes,
    tls: scheme === "rediss",
    username: decodeURIComponent(colon < 0 ? user : user.slice(0, colon)),
    password: colon < 0 ? "" : decodeURIComponent(user.slice(colon + 1)),
    db: Number(db),
    master,
  };
}

const blank: RedisAddress = {
  mode: "single",
  nodes: [],
  tls: false,
  username: "",
  password: "",
  db: 0,
  master: "",
};

function nodeOf(text: string, fallbackPort: number): { host: string; port: number } {
  const [, inBrackets, plain, port] = /^(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const host = inBrackets ?? plain;
  const number = port === undefined ? fallbackPort : Number(port);
  if (host === undefined || number < 1 || number > 65_535) throw new Error("one of the hosts is no HOST:PORT");
  return { host, port: number };
}

/** The setting with its password hidden, for people and logs. */
export function hideRedisPassword(url: string): string {
  return url.replace(/^([a-z+]+:\/\/[^:@/]*):.*@/, "$1:(hidden)@");
}

/** The name of the channel that all replicas listen on. */
export const everyone = "all";
