/** Method options read as data: who may call, what REST answers. */
import { getOption, hasOption } from "@bufbuild/protobuf";
import type { DescMethod } from "@bufbuild/protobuf";
import { access, rest, Role } from "./options.ts";

export type RoleName = "admin" | "operator" | "provider" | "customer" | "viewer" | "agent";

const roleNames: Partial<Record<Role, RoleName>> = {
  [Role.ADMIN]: "admin",
  [Role.OPERATOR]: "operator",
  [Role.PROVIDER]: "provider",
  [Role.CUSTOMER]: "customer",
  [Role.VIEWER]: "viewer",
  [Role.AGENT]: "agent",
};

/** The name of a role as the database and the CLI write it; undefined for UNSPECIFIED and unknown numbers. */
export function roleName(role: Role): RoleName | undefined {
  return roleNames[role];
}

/** The contract's number of a role. */
export function roleNumber(name: RoleName): Role {
  const found = Object.entries(roleNames).find(([, value]) => value === name);
  return Number(found?.[0] ?? Role.ROLE_UNSPECIFIED) as Role;
}

export type MethodAccess =
  | { kind: "public" }
  | { kind: "any-principal" }
  | { kind: "roles"; roles: readonly RoleName[] }
  /** Not declared: refuse. A test fails the build for such a method. */
  | { kind: "undeclared" };

const known = new WeakMap<DescMethod, MethodAccess>();

/** Who may call a method. `admin` is added wherever a person's role is listed. */
export function methodAccess(method: DescMethod): MethodAccess {
  let found = known.get(method);
  if (found === undefined) known.set(method, (found = readAccess(method)));
  return found;
}

function readAccess(method: DescMethod): MethodAccess {
  if (!hasOption(method, access)) return { kind: "undeclared" };
  const declared = getOption(method, access);
  if (declared.public) return { kind: "public" };
  if (declared.anyPrincipal) return { kind: "any-principal" };
  const roles = declared.roles.map(roleName).filter((name) => name !== undefined);
  if (roles.length === 0) return { kind: "undeclared" };
  return { kind: "roles", roles: roles.some((role) => role !== "agent") ? ["admin", ...roles] : roles };
}

/** The HTTP status that REST answers on success. `body` is the response as JSON, for the answer that depends on it. */
export function restStatus(method: DescMethod, body?: Record<string, unknown>): number {
  if (!hasOption(method, rest)) return 200;
  const declared = getOption(method, rest);
  if (declared.whenField !== "" && body?.[declared.whenField] === declared.whenValue) return declared.whenStatus;
  return declared.successStatus === 0 ? 200 : declared.successStatus;
}
