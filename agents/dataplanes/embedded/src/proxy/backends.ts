/** From a backend's URL to where connections go. The adapter reads URLs the same way. */
import { isIP } from "node:net";
import type { Backend } from "@bowline/contract/deployments";
import { isPrivateAddress } from "../addresses.ts";
import { Pool } from "./pools.ts";
import { Refusal } from "./refusal.ts";
import type { ServedBackend } from "./served.ts";

/** Of the contract: Backend.connect_timeout. */
const defaultConnectTimeoutMs = 5_000;

export interface BackendAddress {
  protocol: "http:" | "https:";
  /** A name or an address without brackets. */
  host: string;
  port: number;
  /** Without a last slash. */
  basePath: string;
}

/** Throws an Error that says what is wrong. */
export function readBackendUrl(text: string): BackendAddress {
  if (!URL.canParse(text)) throw new Error("not a URL");
  const url = new URL(text);
  const { protocol } = url;
  if (protocol !== "http:" && protocol !== "https:") throw new Error("neither http:// nor https://");
  if (url.username !== "" || url.password !== "") throw new Error("has user info");
  if (url.search !== "" || url.hash !== "" || /[?#]/.test(text)) throw new Error("has a query or a fragment");
  const host = url.hostname.startsWith("[") ? url.hostname.slice(1, -1) : url.hostname;
  const port = url.port === "" ? (protocol === "https:" ? 443 : 80) : Number(url.port);
  if (port === 0) throw new Error("port 0 cannot be dialled");
  return { protocol, host, port, basePath: url.pathname.replace(/\/$/, "") };
}

/** Throws a Refusal. */
export function compileBackend(
  backend: Backend,
  connectTimeoutMs: number | undefined,
  allowPrivate: boolean,
  secrets: Readonly<Record<string, string>>,
  at: string,
): ServedBackend {
  const { name, url } = backend;
  let address: BackendAddress;
  try {
    address = readBackendUrl(url);
  } catch (error) {
    throw new Refusal(`${at}.url`, (error as Error).message);
  }
  const { basePath, ...rest } = address;
  if (!allowPrivate && isIP(rest.host) !== 0 && isPrivateAddress(rest.host)) {
    throw new Refusal(`${at}.url`, `${rest.host} is a private address`);
  }
  const pool = new Pool({ ...rest, connectTimeoutMs: connectTimeoutMs ?? defaultConnectTimeoutMs, allowPrivate });
  const secretHeaders = backend.secretHeaders.map((header, i) => {
    const value = Object.hasOwn(secrets, header.secret) ? secrets[header.secret] : undefined;
    if (value === undefined)
      throw new Refusal(`${at}.secret_headers[${i}]`, `the secret "${header.secret}" is missing`);
    return { key: header.name.toLowerCase(), name: header.name, value };
  });
  return { name, url, basePath, pool, secretHeaders };
}
