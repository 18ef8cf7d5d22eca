/** How many instances, where, with what, and how they are replaced and restarted. */
import { MAX_REPLICAS } from "./limits.ts";
import type { Amounts, Constraint, Restart, RolloutSettings, Service } from "./model.ts";
import { Unreadable } from "./unreadable.ts";
import { set, type Reader } from "./reader.ts";
import { textOf } from "./tree.ts";
import { cpuMillis, durationMs, integer, sizeBytes } from "./units.ts";

type Deployed = Pick<
  Service,
  "mode" | "job" | "replicas" | "limits" | "reservations" | "update" | "constraints" | "maxReplicasPerAgent" | "restart"
>;

/** `deploy`, and the older keys that say the same. */
export function readDeploy(service: Reader): Deployed {
  const deploy = service.child("deploy");
  const mode = deploy?.word("mode") ?? "replicated";
  if (!["replicated", "global", "replicated-job", "global-job"].includes(mode))
    deploy?.error(
      "VALUE_INVALID",
      "mode",
      `${JSON.stringify(mode)} is no mode`,
      "Use replicated, global, replicated-job or global-job.",
    );
  const job = mode.endsWith("-job");
  const update = deploy?.child("update_config");
  return {
    mode: mode.startsWith("global") ? "global" : "replicated",
    job,
    replicas: readReplicas(service, deploy),
    limits: amounts(service, deploy?.child("resources")?.child("limits"), {
      cpus: "cpus",
      memory: "mem_limit",
      pids: "pids_limit",
    }),
    reservations: set({
      memoryBytes: amounts(service, deploy?.child("resources")?.child("reservations"), { memory: "mem_reservation" })
        .memoryBytes,
    }),
    ...(update === undefined ? {} : { update: readRollout(update) }),
    constraints: readConstraints(deploy?.child("placement")),
    ...set({
      maxReplicasPerAgent: deploy
        ?.child("placement")
        ?.value("max_replicas_per_node", (text) => integer(text, 0, MAX_REPLICAS)),
    }),
    restart: readRestart(service, deploy?.child("restart_policy"), job),
  };
}

function readReplicas(service: Reader, deploy: Reader | undefined): number {
  const count = (text: string) => integer(text, 0, MAX_REPLICAS);
  const replicas = deploy?.value("replicas", count);
  const scale = service.value("scale", count);
  if (replicas !== undefined && scale !== undefined && replicas !== scale)
    service.error("CONFLICT", "scale", `scale is ${scale} and deploy.replicas is ${replicas}`, "Keep one of them.");
  return replicas ?? scale ?? 1;
}

/** Limits or reservations, of `deploy` and of the older keys; where both say something it must be the same. */
function amounts(
  service: Reader,
  resources: Reader | undefined,
  older: Partial<Record<"cpus" | "memory" | "pids", string>>,
): Amounts {
  const one = (key: "cpus" | "memory" | "pids", read: (text: string) => number) => {
    const now = resources?.value(key, read);
    const before = older[key] === undefined ? undefined : service.value(older[key], read);
    if (now !== undefined && before !== undefined && now !== before)
      service.error(
        "CONFLICT",
        older[key] ?? key,
        `it says something else than deploy.resources`,
        "Keep deploy.resources only.",
      );
    return now ?? before;
  };
  const none = (value: number | undefined) => (value === undefined || value <= 0 ? undefined : value);
  return set({
    cpuMillis: none(one("cpus", cpuMillis)),
    memoryBytes: none(one("memory", sizeBytes)),
    pids: none(one("pids", (text) => integer(text, -1, 4_194_304))),
  });
}

function readRollout(config: Reader): RolloutSettings {
  return {
    parallelism: config.value("parallelism", (text) => integer(text, 0, MAX_REPLICAS)) ?? 1,
    delayMs: config.value("delay", durationMs) ?? 0,
    order: config.word("order") === "start-first" ? "start-first" : "stop-first",
  };
}

const constraintForm = 'Write "node.labels.NAME == VALUE", "node.hostname == NAME", or with != instead.';

function readConstraints(placement: Reader | undefined): Constraint[] {
  return (placement?.list("constraints") ?? []).flatMap((item, index) => {
    if (item.kind !== "scalar" || placement === undefined) return [];
    const text = textOf(item);
    if (isOfRole.test(text)) {
      const where = [...placement.path, "constraints", index];
      const advice = "Every agent may have it. To pin it, give agents a label: node.labels.NAME == VALUE.";
      placement.report.warn("VALUE_IGNORED", item.at, where, `agents have no roles: ${text} keeps none out`, advice);
      return [];
    }
    return placement.attempt(["constraints", index], item.at, () => constraint(text)) ?? [];
  });
}

/** Managers and workers are a swarm's; each agent is like the others. */
const isOfRole = /^\s*node\.role\s*(==|!=)\s*(manager|worker)\s*$/;

function constraint(text: string): Constraint {
  const [, key = "", operator = "", value = ""] = /^\s*([\w.\-/]+)\s*(==|!=)\s*(\S(?:.*\S)?)\s*$/.exec(text) ?? [];
  if (key === "") throw new Unreadable(`${JSON.stringify(text)} is no constraint`, constraintForm);
  const common = { operator: operator === "!=" ? "!=" : "==", value } as const;
  const label = /^(?:node|engine)\.labels\.(.+)$/.exec(key)?.[1];
  if (label !== undefined) return { kind: "label", label, ...common };
  if (key === "node.hostname") return { kind: "hostname", ...common };
  if (key === "node.platform.os") return { kind: "platform.os", ...common };
  if (key === "node.platform.arch") return { kind: "platform.arch", ...common };
  const why = `${key} is nothing that agents have`;
  throw new Unreadable(`${JSON.stringify(text)} cannot be placed: ${why}`, `Give the agent a label. ${constraintForm}`);
}

/** `deploy.restart_policy` before `restart`. Compose's default is not to restart. */
function readRestart(service: Reader, policy: Reader | undefined, job: boolean): Restart {
  if (policy !== undefined) {
    const condition = policy.word("condition") ?? "any";
    const known = {
      any: "always",
      always: "always",
      "unless-stopped": "always",
      "on-failure": "on-failure",
      none: "never",
    } as const;
    if (!Object.hasOwn(known, condition))
      policy.error(
        "VALUE_INVALID",
        "condition",
        `${JSON.stringify(condition)} is no condition`,
        "Use any, on-failure or none.",
      );
    const counts = job || condition === "on-failure";
    const maxAttempts = policy.value("max_attempts", (text) => integer(text, 0, 1_000_000));
    if (!counts && maxAttempts !== undefined)
      policy.warn(
        "VALUE_IGNORED",
        "max_attempts",
        `max_attempts has no effect with ${condition}`,
        "It counts with condition: on-failure.",
      );
    return {
      policy: known[condition as keyof typeof known] ?? "always",
      ...set({ maxAttempts: counts ? maxAttempts : undefined }),
    };
  }
  const restart = service.word("restart") ?? "no";
  if (restart === "always" || restart === "unless-stopped") return { policy: job ? "on-failure" : "always" };
  if (restart === "no" || restart === "false") return { policy: "never" };
  const attempts = /^on-failure(?::(\d{1,6}))?$/.exec(restart);
  if (attempts === null) {
    const advice = 'Use "no", always, unless-stopped, on-failure or on-failure:N.';
    service.error("VALUE_INVALID", "restart", `${JSON.stringify(restart)} is no restart policy`, advice);
    return { policy: "never" };
  }
  return { policy: "on-failure", ...set({ maxAttempts: attempts[1] === undefined ? undefined : Number(attempts[1]) }) };
}
