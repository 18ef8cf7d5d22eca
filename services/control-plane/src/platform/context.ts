/** Who calls and with what request: put into Connect's context values by the interceptors, read by handlers. */
import { type ContextValues, createContextKey, type HandlerContext } from "@connectrpc/connect";
import { problem } from "@bowline/kernel";
import type { RoleName } from "@bowline/contract";

/** Whoever a request acts for. */
export interface Principal {
  kind: "service-account" | "agent" | "system";
  id: string;
  name: string;
  role: RoleName;
  /** Empty for agents and the system. */
  organisationId: string;
  organisation: string;
}

/** What one request is known by. */
export interface RequestFacts {
  requestId: string;
  /** Who dialled, or whom a trusted proxy named. */
  remoteAddress: string;
  /** `sha256:…` of the client certificate that the connection came with, from the CA of clients; else empty. */
  clientCertificate?: string;
  /** W3C traceparent for what the request causes; empty or unset: it is not traced. */
  traceParent?: string;
}

export const principalKey = createContextKey<Principal | undefined>(undefined, { description: "principal" });
export const requestKey = createContextKey<RequestFacts>(
  { requestId: "", remoteAddress: "" },
  { description: "request" },
);

/** What the server does by itself: sweeps, repairs, first start. */
export const systemPrincipal: Principal = {
  kind: "system",
  id: "system",
  name: "system",
  role: "admin",
  organisationId: "",
  organisation: "",
};

/** Who acts, and from where: what an audit event and a created row need. */
export interface Caller {
  principal: Principal;
  request: RequestFacts;
}

/** Who wishes for something to be done, and the trace that it belongs to. */
export function by({ principal, request }: Caller): { createdBy: string; traceParent: string } {
  return { createdBy: principal.id, traceParent: request.traceParent ?? "" };
}

/** What handlers of agents' calls see of one, whether it came over our own wire or over Connect. */
export interface CalledBy {
  readonly requestHeader: Pick<Headers, "get">;
  readonly values: ContextValues;
  readonly url: string;
}

/** The caller of a handler. Throws UNAUTHENTICATED where the access interceptor let nobody in (public methods). */
export function callerOf(context: HandlerContext): Caller {
  const principal = context.values.get(principalKey);
  if (principal === undefined) throw problem("UNAUTHENTICATED");
  return { principal, request: context.values.get(requestKey) };
}

/** True where the principal sees every organisation's rows. */
export function seesAll(principal: Principal): boolean {
  return principal.role === "admin" || principal.role === "operator";
}
