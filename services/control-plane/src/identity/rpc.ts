/** OrganisationService, ServiceAccountService, AuthService. */
import { create, toJson } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import { newToken } from "@bowline/auth";
import { type RoleName, roleName, roleNumber } from "@bowline/contract";
import {
  AuthService,
  CreateOrganisationRequestSchema,
  type CreateOrganisationRequest,
  type CreateServiceAccountRequest,
  ListOrganisationsResponseSchema,
  ListServiceAccountsResponseSchema,
  MeSchema,
  type Organisation,
  OrganisationSchema,
  OrganisationService,
  type ServiceAccount,
  ServiceAccountSchema,
  ServiceAccountService,
} from "@bowline/contract/identity";
import { newId, problem } from "@bowline/kernel";
import { audit } from "../platform/audit-trail.ts";
import { type Caller, callerOf } from "../platform/context.ts";
import { once } from "../platform/idempotency.ts";
import { uniqueViolation } from "../platform/problems.ts";
import { transact } from "../platform/transactions.ts";
import { type IdentityPorts, isAbove, organisationOf, serviceAccountOf } from "./model.ts";
import {
  countOrganisations,
  getOrganisation,
  getServiceAccount,
  insertServiceAccount,
  listOrganisations,
  listServiceAccounts,
  revokeServiceAccount,
} from "./queries.ts";

/** Life of an API token where the request names none. */
const defaultLifeMs = 90 * 86_400_000;

export function registerIdentity(router: ConnectRouter, ports: IdentityPorts): void {
  const { db } = ports;
  router.service(OrganisationService, {
    listOrganisations: async (request) => {
      const { rows, nextPageToken } = await listOrganisations(db, request);
      return create(ListOrganisationsResponseSchema, {
        organisations: rows.map(organisationOf),
        nextPageToken,
        totalSize: request.returnTotalSize ? await countOrganisations(db) : undefined,
      });
    },
    getOrganisation: async (request) => organisationOf(await getOrganisation(db, request.id)),
    createOrganisation: (request, context) => createOrganisation(ports, callerOf(context), request),
  });
  router.service(ServiceAccountService, {
    createServiceAccount: (request, context) => createServiceAccount(ports, callerOf(context), request),
    listServiceAccounts: async (request) => {
      const organisation =
        request.organisationId === "" ? undefined : await getOrganisation(db, request.organisationId);
      const { rows, nextPageToken } = await listServiceAccounts(db, { ...request, organisationId: organisation?.id });
      return create(ListServiceAccountsResponseSchema, { serviceAccounts: rows.map(serviceAccountOf), nextPageToken });
    },
    getServiceAccount: async (request) => serviceAccountOf(await getServiceAccount(db, request.id)),
    revokeServiceAccount: (request, context) => revoke(ports, callerOf(context), request.id),
  });
  router.service(AuthService, {
    getMe: async (_, context) => {
      const { principal } = callerOf(context);
      const installation = await db.selectFrom("installation").select("id").executeTakeFirst();
      return create(MeSchema, {
        id: principal.id,
        kind: principal.kind,
        name: principal.name,
        role: roleNumber(principal.role),
        organisationId: principal.organisationId,
        organisation: principal.organisation,
        installationId: installation?.id ?? "",
        serverVersion: ports.serverVersion,
        degraded: ports.degraded?.() ?? [],
      });
    },
  });
}

async function createOrganisation(
  ports: IdentityPorts,
  caller: Caller,
  request: CreateOrganisationRequest,
): Promise<Organisation> {
  const wanted = request.organisation ?? create(OrganisationSchema);
  if (wanted.name === "") {
    throw problem("INVALID_ARGUMENT", "organisation.name is required.", {
      violations: [{ field: "organisation.name", description: "A name is required." }],
    });
  }
  try {
    return await once(
      ports.db,
      {
        principal: caller.principal,
        method: "CreateOrganisation",
        key: request.requestId,
        request,
        requestSchema: CreateOrganisationRequestSchema,
        responseSchema: OrganisationSchema,
      },
      async (work) => {
        const row = await work.tx
          .insertInto("organisations")
          .values({ id: newId("org"), name: wanted.name, display_name: wanted.displayName })
          .returningAll()
          .executeTakeFirstOrThrow();
        const organisation = organisationOf(row);
        await audit(ports.events, work, caller, {
          action: "organisation.create",
          resourceKind: "organisation",
          resourceId: row.id,
          organisationId: row.id,
          after: toJson(OrganisationSchema, organisation),
        });
        return organisation;
      },
    );
  } catch (error) {
    if (uniqueViolation(error) === "organisations_name_key") {
      throw problem("ALREADY_EXISTS", `There is an organisation ${wanted.name} already.`);
    }
    throw error;
  }
}

async function createServiceAccount(
  ports: IdentityPorts,
  caller: Caller,
  request: CreateServiceAccountRequest,
): Promise<ServiceAccount> {
  const role = roleName(request.role);
  if (role === undefined || role === "agent") throw problem("INVALID_ARGUMENT");
  refuseAbove(role, caller, "grants");
  const token = newToken("bwt");
  try {
    return await transact(ports.db, async (work) => {
      const organisation = await getOrganisation(work.tx, request.organisationId || caller.principal.organisationId);
      const id = `sa_${token.id}`;
      await insertServiceAccount(work.tx, {
        id,
        organisationId: organisation.id,
        name: request.name,
        role,
        hash: token.hash,
        lifeMs: request.ttl === undefined ? defaultLifeMs : durationMs(request.ttl),
        createdBy: caller.principal.id,
      });
      const account = serviceAccountOf(await getServiceAccount(work.tx, id));
      await audit(ports.events, work, caller, {
        action: "service-account.create",
        resourceKind: "service-account",
        resourceId: id,
        organisationId: organisation.id,
        after: toJson(ServiceAccountSchema, account),
      });
      account.token = token.text; // after the audit event: it never holds the token
      return account;
    });
  } catch (error) {
    if (uniqueViolation(error) === "service_accounts_live_name") {
      throw problem("ALREADY_EXISTS", `The organisation has a service account ${request.name} already.`);
    }
    throw error;
  }
}

async function revoke(ports: IdentityPorts, caller: Caller, id: string): Promise<ServiceAccount> {
  return transact(ports.db, async (work) => {
    const before = await getServiceAccount(work.tx, id, true);
    refuseAbove(before.role as RoleName, caller, "revokes");
    if (before.revoked_at !== null) return serviceAccountOf(before);
    await revokeServiceAccount(work.tx, id);
    const after = serviceAccountOf(await getServiceAccount(work.tx, id));
    await audit(ports.events, work, caller, {
      action: "service-account.revoke",
      resourceKind: "service-account",
      resourceId: id,
      organisationId: before.organisation_id,
      before: toJson(ServiceAccountSchema, serviceAccountOf(before)),
      after: toJson(ServiceAccountSchema, after),
    });
    return after;
  });
}

function refuseAbove(role: RoleName, caller: Caller, verb: string): void {
  if (!isAbove(role, caller.principal.role)) return;
  throw problem("ROLE_ABOVE_OWN", `Nobody ${verb} a role above their own: ${role} is above ${caller.principal.role}.`, {
    metadata: { role, own: caller.principal.role },
  });
}
