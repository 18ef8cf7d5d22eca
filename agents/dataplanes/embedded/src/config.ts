/**
 * Settings of the data plane process: all come from `compile` in
 * adapter/workload.ts and from the runtime that started the process.
 */
import { parseArgs } from "node:util";

export interface ListenerConfig {
  name: string;
  address: string;
  port: number;
}

export interface Config {
  /** Folder of the volume `config`. */
  folder: string;
  listeners: readonly ListenerConfig[];
  admin: ListenerConfig;
  /** From SIGTERM until open connections are cut. */
  graceMs: number;
}

/** What `compile` says about one listener, in the variable BOWLINE_LISTENERS. */
export interface ListenerSetting {
  name: string;
  /** 0: the runtime says which, in BOWLINE_PORT_<NAME>. */
  port: number;
  /** Empty: the default below. */
  address: string;
}

/** Throws an Error that names the setting which is missing or wrong. */
export function readConfig(argv: readonly string[], environment: NodeJS.ProcessEnv = process.env): Config {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      config: { type: "string", default: "config" },
      "admin-port-name": { type: "string", default: "bowline-admin" },
      "grace-ms": { type: "string", default: "10000" },
    },
    strict: true,
  });
  const graceMs = Number(values["grace-ms"]);
  if (!Number.isSafeInteger(graceMs) || graceMs < 0) throw new Error("--grace-ms is not a whole number");
  const settings = JSON.parse(environment["BOWLINE_LISTENERS"] ?? "[]") as ListenerSetting[];
  return {
    folder: values.config,
    graceMs,
    listeners: settings.map((setting) => resolve(setting, "0.0.0.0")),
    admin: resolve({ name: values["admin-port-name"], port: 0, address: "" }, "0.0.0.0"),
  };

  /**
   * A runtime that passes ports runs us on the host itself, where the default is
   * loopback; inside a container the host's side decides who may connect.
   */
  function resolve(setting: ListenerSetting, inContainer: string): ListenerConfig {
    const variable = `BOWLINE_PORT_${setting.name.toUpperCase().replaceAll("-", "_")}`;
    const given = environment[variable];
    const port = given === undefined || given === "" ? setting.port : Number(given);
    if (!Number.isSafeInteger(port) || port < 0 || port > 65535) throw new Error(`${variable} is not a port`);
    const address = given === undefined ? inContainer : setting.address || "127.0.0.1";
    return { name: setting.name, address, port };
  }
}
