/**
 * Who may do what: organisations, service accounts, and who a credential names.
 *
 *   model.ts         rows as the API shows them, the order of roles
 *   queries.ts       organisations and service accounts in SQL
 *   authenticate.ts  the principal behind a request's API token
 *   bootstrap.ts     the first start: installation, organisation, admin token
 *   rpc.ts           OrganisationService, ServiceAccountService, AuthService
 */
import type { ConnectRouter } from "@connectrpc/connect";
import type { Principal } from "../platform/context.ts";
import { createAuthenticate } from "./authenticate.ts";
import { registerIdentity } from "./rpc.ts";
import type { IdentityPorts } from "./model.ts";

export {
  adminAccountName,
  bootstrap,
  type Bootstrapped,
  defaultOrganisation,
  resetAdminToken,
  resetAdminTokenIn,
} from "./bootstrap.ts";
export type { IdentityPorts, OrganisationRow } from "./model.ts";
export { accountNames, accountsCalled, findOrganisation, getOrganisation, shutOut } from "./queries.ts";

export interface Identity {
  readonly register: (router: ConnectRouter) => void;
  /**
   * The principal that `authorization: Bearer bwt_…` names; undefined where there is no such header.
   * Throws UNAUTHENTICATED for a malformed, unknown or revoked token, TOKEN_EXPIRED for an old one.
   */
  readonly authenticate: (headers: Pick<Headers, "get">) => Promise<Principal | undefined>;
}

export function createIdentity(ports: IdentityPorts): Identity {
  return {
    register: (router) => registerIdentity(router, ports),
    authenticate: createAuthenticate(ports.db),
  };
}
