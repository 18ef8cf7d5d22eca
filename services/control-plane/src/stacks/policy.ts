/** How a rollout goes: its policy with defaults, and what of it is in a spec. */
import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { type Duration, durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import type { Service } from "@bowline/compose";
import {
  type Gate,
  GateSchema,
  UpdateConfig_Order as Order,
  type UpdateConfigSchema,
} from "@bowline/contract/deployments";
import {
  type RolloutGate,
  type RolloutPolicy,
  RolloutPolicy_Strategy as Strategy,
  RolloutPolicySchema,
} from "@bowline/contract/stacks";
import { problem } from "@bowline/kernel";
import { type Colours, workloadName } from "./colours.ts";
import { canDouble } from "./sides.ts";

export interface Policy {
  strategy: "ROLLING" | "BLUE_GREEN" | "CANARY";
  order: Order;
  maxParallel: number;
  minHealthyMs: number;
  /** Infinity: none. */
  healthyDeadlineMs: number;
  progressDeadlineMs: number;
  autoRevert: boolean;
  autoPromote: boolean;
  canaryCount: number;
  /** 0: the count says it. */
  canaryPercent: number;
  keepOldMs: number;
  gates: readonly RolloutGate[];
}

const ms = (duration: Duration | undefined, otherwise: number): number =>
  duration === undefined ? otherwise : durationMs(duration);

export function policyOf(bytes: Uint8Array): Policy {
  const given = fromBinary(RolloutPolicySchema, bytes);
  const strategy =
    given.strategy === Strategy.BLUE_GREEN ? "BLUE_GREEN" : given.strategy === Strategy.CANARY ? "CANARY" : "ROLLING";
  return {
    strategy,
    order: given.order,
    maxParallel: given.maxParallel === 0 ? 1 : given.maxParallel,
    minHealthyMs: ms(given.minHealthyTime, 10_000),
    healthyDeadlineMs: ms(given.healthyDeadline, Infinity),
    progressDeadlineMs: ms(given.progressDeadline, 600_000),
    autoRevert: given.autoRevert ?? true,
    autoPromote: given.autoPromote ?? strategy !== "CANARY",
    canaryCount: given.canaryCount === 0 ? 1 : given.canaryCount,
    canaryPercent: given.canaryPercent,
    keepOldMs: ms(given.keepOld, 300_000),
    gates: given.gates,
  };
}

/** New instances of a service with this many replicas. */
export function canaryTotal(policy: Policy, replicas: number): number {
  const asked = policy.canaryPercent === 0 ? policy.canaryCount : Math.ceil((replicas * policy.canaryPercent) / 100);
  return Math.min(Math.max(1, asked), replicas);
}

/** What compiling takes from a policy. */
export function shapeOf(policy: Policy): {
  forwards: (service: Service) => boolean;
  update: (service: Service) => MessageInitShape<typeof UpdateConfigSchema> | undefined;
} {
  const update = (service: Service) => {
    const { update: given } = service;
    const asked = given === undefined ? policy.order : orders[given.order];
    const order = asked === Order.START_FIRST && !canDouble(service) ? Order.STOP_FIRST : asked;
    if (given === undefined && order === Order.ORDER_UNSPECIFIED) return undefined;
    return {
      order,
      ...(given === undefined ? {} : { maxParallel: given.parallelism, delay: durationFromMs(given.delayMs) }),
    };
  };
  return {
    update,
    forwards: (service) =>
      service.ports.length > 0 &&
      canDouble(service) &&
      (policy.strategy !== "ROLLING" || update(service)?.order === Order.START_FIRST),
  };
}

const orders = { "stop-first": Order.STOP_FIRST, "start-first": Order.START_FIRST } as const;

/**
 * Throws INVALID_ARGUMENT for gates that ask what the stack does not have: of the policy that is given, or else of the
 * one that was kept.
 */
export function checkGates(given: RolloutPolicy | undefined, kept: Uint8Array, services: readonly Service[]): void {
  const policy = given ?? fromBinary(RolloutPolicySchema, kept);
  const violations = policy.gates.flatMap(({ service: name, check }, index) => {
    const at = `policy.gates[${index}]`;
    const service = services.find((one) => one.name === name);
    if (service === undefined) return [{ field: `${at}.service`, description: `The stack has no service ${name}.` }];
    if (check.case !== "http") return [];
    const ports = [...service.ports, ...service.expose].map(({ container }) => String(container));
    if (ports.includes(check.value.port)) return [];
    const has = ports.length === 0 ? "it has none in `ports` or `expose`" : `it has ${[...new Set(ports)].join(", ")}`;
    return [
      { field: `${at}.http.port`, description: `${name} has no port ${check.value.port || "of no number"}; ${has}.` },
    ];
  });
  if (violations.length > 0)
    throw problem(
      "INVALID_ARGUMENT",
      given === undefined
        ? "A gate that was kept from an earlier apply asks what the stack does not have: give the policy anew."
        : "A gate asks what the stack does not have.",
      { violations },
    );
}

/** The gates that ask these workloads. */
export function gatesOf(policy: Policy, workloads: readonly { name: string }[], colours: Colours): Gate[] {
  return policy.gates.flatMap(({ $typeName: _typeName, service, ...gate }) => {
    const workload = workloadName(service, colours);
    return workloads.some(({ name }) => name === workload) ? [create(GateSchema, { ...gate, workload })] : [];
  });
}
