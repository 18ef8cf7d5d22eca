/**
 * What an agent has while old and new run side by side. Pure.
 *
 * B1: what is live is compiled as it was when it became stable, so nothing of it
 *     restarts; what is new stands beside it in the other colour.
 * B2: a service that writes to what outlives its instances cannot run twice: it
 *     is replaced in place, before anything new is asked whether it works.
 * B3: what only the old revision has goes last.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import type { Service, Stack as StackModel } from "@bowline/compose";
import { DeploymentSchema, type Forward, ForwardSchema } from "@bowline/contract/deployments";
import { type Colours, workloadName } from "./colours.ts";
import { type CompileOptions, compileTarget, type Spec } from "./compile.ts";

export type SidePhase = "PREPARING" | "CANARIES" | "SWITCHING";

/** Whether two versions of a service may run at one time (B2). */
export function canDouble(service: Service): boolean {
  const writes = service.mounts.some(
    (mount) => (mount.kind === "bind" || (mount.kind === "volume" && mount.volume !== "")) && !mount.readOnly,
  );
  return !writes && !service.job && service.networkMode === undefined;
}

interface Version {
  model: StackModel;
  options: Pick<CompileOptions, "stamps" | "secretVersions">;
}

/** Services of both versions that differ in more than how many they are, and may run side by side. */
export function doubledServices(was: Version, is: Version): string[] {
  const asOne = ({ model, options }: Version, service: string): Uint8Array => {
    const spec = compileTarget(model, { [service]: 1 }, { ...constant, ...options });
    const workloads = (spec.workloads ?? []).map((one) => ({ ...one, update: undefined, dependsOn: [] }));
    // Its published ports are the forwarders', which change without it.
    return toBinary(DeploymentSchema, create(DeploymentSchema, { ...spec, workloads, forwards: [] } as Spec));
  };
  return is.model.services
    .filter((service) => {
      const before = was.model.services.find(({ name }) => name === service.name);
      if (before === undefined || !canDouble(before) || !canDouble(service)) return false;
      return Buffer.compare(asOne(was, service.name), asOne(is, service.name)) !== 0;
    })
    .map(({ name }) => name);
}

/** The same for both sides of a comparison. */
const constant = {
  stack: "",
  desired: "RUNNING",
  colours: {},
  forwards: () => true,
  update: () => undefined,
  runTimeoutMs: 0,
} as const satisfies Omit<CompileOptions, "stamps" | "secretVersions">;

/** How many new instances each agent gets of `total`, one each in turn; those of `last` only what others have no room for. */
export function canaries(
  total: number,
  wanted: ReadonlyMap<string, Readonly<Record<string, number>>>,
  service: string,
  last: ReadonlySet<string> = new Set(),
): Map<string, number> {
  const given = new Map<string, number>();
  const room = [...wanted].map(([agentId, counts]) => ({ agentId, count: counts[service] ?? 0 }));
  let left = total;
  for (const isLast of [false, true]) {
    const some = room.filter(({ agentId }) => last.has(agentId) === isLast);
    const most = Math.max(0, ...some.map(({ count }) => count));
    for (let round = 0; round < most; round += 1) {
      for (const { agentId, count } of some) {
        if (left === 0 || count <= round) continue;
        given.set(agentId, round + 1);
        left -= 1;
      }
    }
  }
  return given;
}

export interface Sides {
  phase: SidePhase;
  /** What is live, in its colours. */
  base: Spec;
  /** What it is to become, in the colours after the rollout. */
  next: Spec;
  /** Services that run side by side, with the colours of `base` and of `next`. */
  doubled: readonly string[];
  live: Colours;
  coming: Colours;
  /** With CANARIES: new instances here, by service. */
  canaries: Readonly<Record<string, number>>;
}

/** Base and next in one. */
export function sideBySide({ phase, base, next, doubled, live, coming, canaries: counts }: Sides): Spec {
  const partner = new Map(doubled.map((service) => [workloadName(service, coming), workloadName(service, live)]));
  const countOf = new Map(doubled.map((service) => [workloadName(service, coming), counts[service] ?? 0]));
  const isLeftOut = (workload: string): boolean => phase === "CANARIES" && countOf.get(workload) === 0;
  const arriving = (next.workloads ?? [])
    .filter((workload) => !isLeftOut(workload.name))
    .map((workload) => ({
      ...workload,
      ...(phase === "CANARIES" && countOf.has(workload.name) ? { count: countOf.get(workload.name) ?? 0 } : {}),
      dependsOn: workload.dependsOn.map((one) =>
        isLeftOut(one.workload) ? { ...one, workload: partner.get(one.workload) ?? one.workload } : one,
      ),
    }));
  const names = new Set((next.workloads ?? []).map(({ name }) => name));
  const staying = (base.workloads ?? []).filter(({ name }) => !names.has(name)); // B1, B3
  const union = <T extends { name: string }>(ours: readonly T[] = [], theirs: readonly T[] = []): T[] => [
    ...ours,
    ...theirs.filter(({ name }) => !ours.some((one) => one.name === name)),
  ];
  return {
    ...next,
    workloads: [...arriving, ...staying],
    volumes: union(next.volumes, base.volumes),
    files: union(next.files, base.files),
    networks: union(next.networks, base.networks),
    secretVersions: { ...base.secretVersions, ...next.secretVersions },
    forwards: forwardsOf(phase, base, next, { partner, countOf, isLeftOut }),
  } as Spec;
}

/** Which side holds a port of the host: the old one until it is switched; with canaries both, by their numbers. */
function forwardsOf(
  phase: SidePhase,
  base: Spec,
  next: Spec,
  about: {
    partner: ReadonlyMap<string, string>;
    countOf: ReadonlyMap<string, number>;
    isLeftOut: (workload: string) => boolean;
  },
): Forward[] {
  const old = base.forwards ?? [];
  const fresh = (next.forwards ?? []).filter(({ backends }) => !backends.some((one) => about.isLeftOut(one.workload)));
  const same = (a: Forward, b: Forward): boolean =>
    a.name === b.name ||
    (a.published !== 0 &&
      a.published === b.published &&
      a.protocol === b.protocol &&
      (a.hostAddress === b.hostAddress || a.hostAddress === "" || b.hostAddress === ""));
  const [first, second] = phase === "SWITCHING" ? [fresh, old] : [old, fresh];
  const all = [...first, ...second.filter((one) => !first.some((other) => same(one, other)))];
  if (phase !== "CANARIES") return all;
  const totalOf = (workload: string): number => base.workloads?.find(({ name }) => name === workload)?.count ?? 1;
  return all.map((forward) => {
    const [candidate] = fresh.find(({ name }) => name === forward.name)?.backends ?? [];
    const [live] = forward.backends;
    if (candidate === undefined || live === undefined || about.partner.get(candidate.workload) !== live.workload)
      return forward;
    return create(ForwardSchema, {
      ...forward,
      backends: [
        { ...live, weight: totalOf(live.workload) },
        { ...candidate, weight: about.countOf.get(candidate.workload) ?? 1 },
      ],
    });
  });
}
