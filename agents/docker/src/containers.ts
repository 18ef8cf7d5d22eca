/** What the engine says about a container, and how its refusals read. */
import { Refusal } from "@bowline/agent-core/runtimes";
import { EngineError } from "./engine.ts";

/** As `inspect` tells it; only what we look at. */
export interface Inspected {
  Id: string;
  RestartCount: number;
  State: {
    Status: "created" | "running" | "paused" | "restarting" | "removing" | "exited" | "dead";
    ExitCode: number;
    OOMKilled: boolean;
    Error: string;
    StartedAt: string;
    FinishedAt: string;
    Health?: { Status: string; Log?: { ExitCode: number; Output: string }[] | null };
  };
  /** `Healthcheck`: the spec's, else the image's own. */
  Config: { Labels: Record<string, string>; Tty: boolean; Healthcheck?: { Test?: string[] | null } | null };
  HostConfig: Record<string, unknown>;
  NetworkSettings: { Networks: Record<string, { IPAddress: string }> };
}

/** In a list of containers. */
export interface Listed {
  Id: string;
  Names: string[];
  Image: string;
  Labels: Record<string, string>;
  State: string;
  Status: string;
}

/** Why a container was not made or did not start; `named` says whose. */
export function refusalOf(error: unknown, named: string): Refusal {
  if (!(error instanceof EngineError)) {
    if (error instanceof Refusal) return error;
    throw error;
  }
  const { message, status } = error;
  const port = /(?:Bind for |listen \w+ )\S*?:(\d+)\b/.exec(message)?.[1];
  if (/port is already allocated|address already in use/i.test(message)) {
    return new Refusal("PORT_TAKEN", `${named}: port ${port ?? "?"} is in use on the host`, true);
  }
  if (/executable file not found|no such file or directory: unknown|no such image/i.test(message)) {
    return new Refusal("IMAGE_UNAVAILABLE", `${named}: ${message}`, false);
  }
  if (/no space left/i.test(message)) return new Refusal("DISK_FULL", `${named}: ${message}`, true);
  return new Refusal("START_FAILED", `${named}: ${message}`, status === 0 || status >= 500);
}
