/** Which engine a Docker agent works with; the core has read flags and environment. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ConfigError } from "@bowline/agent-core";
import type { EngineAddress } from "./engine.ts";

const defaultHost = "unix:///var/run/docker.sock";

/** `certificates`: a folder with ca.pem, cert.pem and key.pem; with it `tcp://` is TLS. Throws a ConfigError. */
export function engineAddress({ host, certificates }: { host?: string; certificates?: string }): EngineAddress {
  const chosen = host ?? defaultHost;
  const url = URL.parse(chosen);
  const unix = url?.protocol === "unix:" && url.pathname.length > 1;
  const tcp = url?.protocol === "tcp:" && url.hostname !== "" && url.username === "" && url.search === "";
  if (!unix && !tcp) throw new ConfigError("--docker-host: write unix:///path/of/docker.sock or tcp://host:port");
  if (certificates === undefined) {
    if (tcp && !["127.0.0.1", "localhost", "[::1]"].includes(url.hostname))
      throw new ConfigError(
        `--docker-host ${chosen}: whoever reaches an engine in clear text owns its host; give --docker-cert-path`,
      );
    return { host: chosen };
  }
  if (unix) throw new ConfigError("--docker-cert-path: a unix socket has no TLS");
  const read = (name: string): Buffer => {
    try {
      return readFileSync(join(certificates, name));
    } catch (error) {
      throw new ConfigError(`--docker-cert-path: ${name} cannot be read: ${(error as Error).message}`);
    }
  };
  return { host: chosen, tls: { ca: read("ca.pem"), cert: read("cert.pem"), key: read("key.pem") } };
}
