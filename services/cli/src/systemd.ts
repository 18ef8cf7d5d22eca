/**
 * The systemd unit of an agent and its environment file, as text.
 *
 * S1: what the agent runs survives a restart of the agent: systemd ends the
 *     agent's process alone, and the agent adopts the rest when it is back.
 * S2: no secret is in the unit or in any argument; the environment file is for
 *     root's eyes, who is systemd when it reads it.
 * S3: hardening reaches what the agent runs, which inherits it: only what
 *     ordinary programs can live with is here.
 */
import { usage } from "./failure.ts";

/** What the unit starts, and how. */
export type AgentUnit = {
  /** Of the unit, without `.service`. */
  name: string;
  /** Absolute paths: the program and its arguments. */
  command: readonly string[];
  environmentFile: string;
  runtime: string;
  /** Empty: root. */
  user: string;
};

/** Where units of the host's own are, and ours keep their settings. */
export const unitFolder = "/etc/systemd/system";
export const settingsFolder = "/etc/bowline";

/** Exit code of an agent that is refused for good: to start it again changes nothing until a person acts. */
const refusedForGood = 4;
/** The agent promises to be gone within 7.5 s of SIGTERM. */
const stopWithinSeconds = 20;
/** Each instance and each connection through a data plane takes some; the usual soft limit of 1024 is for terminals. */
const openFiles = 65_536;

/** Throws a usage failure. The name becomes a file's. */
export function checkUnitName(name: string): void {
  if (/^[a-z0-9][a-z0-9_.-]{0,60}$/.test(name)) return;
  throw usage(`--unit ${name}: lower-case letters, digits, _ . and -, at most 61`);
}

export function unitText(unit: AgentUnit): string {
  const lines = [
    "# Written by `bowline agent install`; `bowline agent uninstall` removes it.",
    "[Unit]",
    `Description=Bowline agent (${unit.runtime})`,
    "Wants=network-online.target",
    "After=network-online.target",
    "StartLimitIntervalSec=0",
    "",
    "[Service]",
    "Type=exec",
    ...(unit.user === "" ? [] : [`User=${unit.user}`]),
    `EnvironmentFile=${specifiers(unit.environmentFile)}`,
    `ExecStart=${unit.command.map(argument).join(" ")}`,
    "Restart=always",
    "RestartSec=5",
    `# ${refusedForGood}: the server refuses the agent for good (revoked, retired, its key replaced); the log says what to do.`,
    `RestartPreventExitStatus=${refusedForGood}`,
    "# What the agent runs goes on while it restarts, and is adopted again.",
    "KillMode=process",
    `TimeoutStopSec=${stopWithinSeconds}`,
    "OOMPolicy=continue",
    "TasksMax=infinity",
    `LimitNOFILE=${openFiles}`,
    "UMask=0077",
    "# Inherited by what the agent runs. No PrivateTmp: a restart would take /tmp away from what runs.",
    "NoNewPrivileges=yes",
    "ProtectSystem=full",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "",
    "[Install]",
    "WantedBy=multi-user.target",
    "",
  ];
  return lines.join("\n");
}

/** `NAME="value"` per line, as systemd and a shell read it. Throws a RangeError on a value with a line break. */
export function environmentText(settings: Readonly<Record<string, string | undefined>>): string {
  const lines = Object.entries(settings).flatMap(([name, value]) => {
    if (value === undefined || value === "") return [];
    if (/[\r\n\0]/.test(value)) throw new RangeError(`${name} has a line break`);
    return [`${name}="${value.replaceAll(/[\\"`$]/g, "\\$&")}"`];
  });
  return ["# Settings of the Bowline agent; see `bowline agent join --help`.", ...lines, ""].join("\n");
}

/** All that environmentText wrote. */
export function readAllEnvironment(text: string): Record<string, string> {
  const names = [...text.matchAll(/^([A-Z_]+)="/gm)].map(([, name = ""]) => name);
  return Object.fromEntries(names.map((name) => [name, readEnvironment(text, name) ?? ""]));
}

/** A value of environmentText; undefined where it is not set. */
export function readEnvironment(text: string, name: string): string | undefined {
  const found = text.split("\n").find((line) => line.startsWith(`${name}="`) && line.endsWith('"'));
  return found?.slice(name.length + 2, -1).replaceAll(/\\(.)/g, "$1");
}

/** An argument of ExecStart, quoted where it must be. */
function argument(text: string): string {
  const escaped = specifiers(text).replaceAll("$", "$$$$");
  return /^[A-Za-z0-9_@%+=:,./$-]+$/.test(escaped) ? escaped : `"${escaped.replaceAll(/[\\"]/g, "\\$&")}"`;
}

/** systemd reads % as the begin of a specifier. */
function specifiers(text: string): string {
  return text.replaceAll("%", "%%");
}
