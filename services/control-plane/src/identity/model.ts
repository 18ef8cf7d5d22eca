/** Identity's rows as the API shows them, and the order of roles. */
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type RoleName, roleNumber } from "@bowline/contract";
import {
  type Organisation,
  OrganisationSchema,
  type ServiceAccount,
  ServiceAccount_State,
  ServiceAccountSchema,
} from "@bowline/contract/identity";
import type { OrganisationsTable, ServiceAccountsTable } from "@bowline/db";
import type { Selectable } from "kysely";
import { etagOf } from "../platform/etags.ts";
import type { Events } from "../platform/events.ts";
import type { Db } from "../platform/transactions.ts";

export interface IdentityPorts {
  db: Db;
  events: Events;
  serverVersion: string;
  /** Names of what the server goes on without. */
  degraded?: () => string[];
}

export type OrganisationRow = Selectable<OrganisationsTable>;

/** A service account without its hash, and where it stands by the database's clock. */
export type ServiceAccountRow = Omit<Selectable<ServiceAccountsTable>, "secret_hash"> & { expired: boolean };

export function organisationOf(row: OrganisationRow): Organisation {
  return create(OrganisationSchema, {
    id: row.id,
    name: row.name,
    displayName: row.display_name,
    etag: etagOf(row.version),
    createdAt: timestampFromDate(row.created_at),
  });
}

export function serviceAccountOf(row: ServiceAccountRow): ServiceAccount {
  return create(ServiceAccountSchema, {
    id: row.id,
    name: row.name,
    organisationId: row.organisation_id,
    role: roleNumber(row.role as RoleName),
    state:
      row.revoked_at !== null
        ? ServiceAccount_State.REVOKED
        : row.expired
          ? ServiceAccount_State.EXPIRED
          : ServiceAccount_State.ACTIVE,
    expiresAt: row.expires_at === null ? undefined : timestampFromDate(row.expires_at),
    lastUsedAt: row.last_used_at === null ? undefined : timestampFromDate(row.last_used_at),
    createdBy: row.created_by,
    createdAt: timestampFromDate(row.created_at),
  });
}

/** Who stands above whom. Provider, customer and viewer stand beside each other. */
const ranks = { admin: 3, operator: 2, provider: 1, customer: 1, viewer: 1, agent: 0 } as const satisfies Record<
  RoleName,
  number
>;

/** True where `role` is above `own`, so that `own` must neither grant nor end it. */
export function isAbove(role: RoleName, own: RoleName): boolean {
  return ranks[role] > ranks[own];
}
