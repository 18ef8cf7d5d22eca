/**
 * HTTP proxies as the environment names them: HTTPS_PROXY for https servers,
 * HTTP_PROXY for http ones, NO_PROXY for those to be dialled without. Both
 * cases of each name; the lower one wins, as in curl.
 *
 * R1: this machine itself (localhost, 127.0.0.0/8, ::1) never goes through a
 *     proxy: its loopback is another machine's.
 * R2: a proxy's credentials appear in no message and in no log.
 */
import { BlockList, isIP } from "node:net";
import { type Endpoint, endpointOf, isLoopback, type ProxySettings } from "./target.ts";

/** A proxy to dial. */
export interface Proxy extends Endpoint {
  /** TLS to the proxy itself. */
  secure: boolean;
  /** `Proxy-Authorization`, where the URL has user and password. */
  authorization: string | undefined;
}

/** Longest list that is read: more than anybody types, and each dial reads it. */
const maxExceptions = 1_000;

/** Proxy settings out of an environment. Only a config.ts has one to give. */
export function proxiesOf(environment: Readonly<Record<string, string | undefined>>): ProxySettings {
  const read = (name: string): string | undefined => environment[name.toLowerCase()] || environment[name] || undefined;
  return { https: read("HTTPS_PROXY"), http: read("HTTP_PROXY"), none: read("NO_PROXY") };
}

/**
 * The proxy for a server; undefined: none. Throws a RangeError where the
 * variable that counts holds no proxy's URL.
 */
export function proxyFor(server: string, settings: ProxySettings | undefined): Proxy | undefined {
  const url = new URL(server);
  const endpoint = endpointOf(url);
  const [name, text] =
    url.protocol === "https:" ? (["HTTPS_PROXY", settings?.https] as const) : (["HTTP_PROXY", settings?.http] as const);
  if (text === undefined || isLoopback(endpoint.host) || isExcepted(endpoint, settings?.none)) return undefined; // R1
  return parseProxy(name, text);
}

function parseProxy(name: string, text: string): Proxy {
  const url = URL.parse(text.includes("://") ? text : `http://${text}`);
  if (url === null || url.hostname === "" || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw new RangeError(`${name} is not the URL of an HTTP proxy; write http://proxy.example.com:3128`); // R2
  }
  const credentials = url.username === "" && url.password === "" ? undefined : [url.username, url.password];
  return {
    ...endpointOf(url),
    secure: url.protocol === "https:",
    authorization:
      credentials === undefined
        ? undefined
        : `Basic ${Buffer.from(credentials.map(decoded).join(":"), "utf8").toString("base64")}`,
  };
}

/** As it is where it holds a stray percent sign. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // not percent-encoded: meant as it stands
  }
}

function isExcepted({ host, port }: Endpoint, list: string | undefined): boolean {
  const name = host.toLowerCase().replace(/\.$/, "");
  return (list ?? "")
    .split(/[\s,]+/)
    .slice(0, maxExceptions)
    .some((entry) => entry !== "" && covers(entry.toLowerCase(), name, port));
}

function covers(entry: string, name: string, port: number): boolean {
  if (entry === "*") return true;
  const network = /^\[?([0-9a-f.:]+)\]?\/(\d{1,3})$/.exec(entry);
  if (network !== null) return isIP(name) !== 0 && isInside(name, network[1] ?? "", Number(network[2]));
  const withPort = /^(.+):(\d+)$/.exec(entry);
  const hasPort = withPort !== null && (isIP(entry) !== 6 || entry.startsWith("["));
  if (hasPort && Number(withPort[2]) !== port) return false;
  const bare = (hasPort ? (withPort[1] ?? "") : entry).replace(/^\[(.*)\]$/, "$1").replace(/^\*?\.|\.$/g, "");
  return bare !== "" && (name === bare || (isIP(name) === 0 && name.endsWith(`.${bare}`)));
}

function isInside(address: string, network: string, bits: number): boolean {
  const family = isIP(network) === 4 ? "ipv4" : "ipv6";
  if (isIP(network) === 0 || isIP(address) !== isIP(network) || bits > (family === "ipv4" ? 32 : 128)) return false;
  const list = new BlockList();
  list.addSubnet(network, bits, family);
  return list.check(address, family);
}
