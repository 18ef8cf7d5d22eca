/**
 * The closed set of what can go wrong on purpose. Callers switch on the reason;
 * a message is for people and may change. Translated once, at the edge, to
 * Connect, gRPC, REST and the CLI.
 *
 * P1: a reason never changes its name or its code once it is released.
 * P2: a reason says what is wrong, not where; the same state has one reason.
 */

/** The codes of Connect and gRPC, as Connect spells them. */
export type Code =
  | "canceled"
  | "unknown"
  | "invalid_argument"
  | "deadline_exceeded"
  | "not_found"
  | "already_exists"
  | "permission_denied"
  | "resource_exhausted"
  | "failed_precondition"
  | "aborted"
  | "out_of_range"
  | "unimplemented"
  | "internal"
  | "unavailable"
  | "data_loss"
  | "unauthenticated";

/** Every reason, its code, and what it means to whoever looks it up. The documentation is made of this. */
export const reasons = {
  // Requests
  INVALID_ARGUMENT: { code: "invalid_argument", summary: "A field is missing or wrong; the violations name it." },
  MALFORMED_BODY: { code: "invalid_argument", summary: "The body cannot be read as what it should be." },
  BODY_TOO_LARGE: { code: "resource_exhausted", summary: "The body is larger than the limit." },
  UNSUPPORTED_MEDIA_TYPE: {
    code: "invalid_argument",
    summary: "The body's content type is not one that is read here.",
  },
  METHOD_NOT_ALLOWED: { code: "unimplemented", summary: "The path exists, but not with this HTTP method." },
  UNKNOWN_METHOD: { code: "unimplemented", summary: "There is no such path or method." },
  PAGE_TOKEN_INVALID: { code: "invalid_argument", summary: "The page token is not one of this list." },
  CURSOR_EXPIRED: {
    code: "out_of_range",
    summary: "What followed this cursor is no longer kept. Watch again without a cursor: that begins with a snapshot.",
  },
  NOT_FOUND: { code: "not_found", summary: "It does not exist, or you may not know that it does." },
  ALREADY_EXISTS: { code: "already_exists", summary: "The name is taken." },
  STALE_ETAG: { code: "aborted", summary: "It has changed since you read it; read it again." },
  IDEMPOTENCY_CONFLICT: { code: "already_exists", summary: "The idempotency key was used for a different request." },
  OVERLOADED: { code: "resource_exhausted", summary: "The server has more than it can do; wait as long as told." },
  RATE_LIMITED: { code: "resource_exhausted", summary: "Too many calls in a minute; wait as long as told." },
  UNAVAILABLE: { code: "unavailable", summary: "The server cannot answer now; the request may be repeated." },
  DATABASE_UNAVAILABLE: { code: "unavailable", summary: "The database does not answer; the request may be repeated." },
  COMMIT_UNKNOWN: {
    code: "unavailable",
    summary: "The connection was lost while committing; repeat with the same idempotency key to learn the outcome.",
  },
  INTERNAL: { code: "internal", summary: "A defect of the server; its log has the details under the request's id." },

  // Starting a server or an agent
  PORT_IN_USE: { code: "failed_precondition", summary: "Another program listens on the port." },
  TLS_FILES_UNUSABLE: {
    code: "failed_precondition",
    summary: "The server's certificate, its key or the CA of clients cannot be used.",
  },

  // Who is asking
  UNAUTHENTICATED: { code: "unauthenticated", summary: "There is no valid credential in the request." },
  TOKEN_EXPIRED: { code: "unauthenticated", summary: "The credential has expired." },
  PERMISSION_DENIED: { code: "permission_denied", summary: "Your role may not do this." },
  ROLE_ABOVE_OWN: { code: "permission_denied", summary: "Nobody grants a role above their own." },

  // Enrolment and sessions
  REGISTRATION_TOKEN_MALFORMED: { code: "invalid_argument", summary: "This is not a registration token." },
  REGISTRATION_TOKEN_UNKNOWN: { code: "unauthenticated", summary: "This server did not issue the token." },
  REGISTRATION_TOKEN_USED: { code: "failed_precondition", summary: "The token has enrolled an agent already." },
  REGISTRATION_TOKEN_EXPIRED: { code: "failed_precondition", summary: "The token is too old; issue another." },
  REGISTRATION_TOKEN_REVOKED: { code: "failed_precondition", summary: "The token was revoked." },
  ENROLMENT_PROOF_INVALID: { code: "unauthenticated", summary: "The proof of the agent's key does not hold." },
  CLOCK_SKEW: { code: "failed_precondition", summary: "The agent's clock and the server's differ too much." },
  ASSERTION_INVALID: { code: "unauthenticated", summary: "The agent's signed assertion does not hold." },
  ASSERTION_REPLAYED: { code: "unauthenticated", summary: "The assertion's counter is not above every one before." },
  AGENT_REVOKED: { code: "permission_denied", summary: "The agent was revoked and must not return." },
  AGENT_KEY_IN_USE: { code: "already_exists", summary: "A live agent has this key already." },
  AGENT_KEY_REPLACED: {
    code: "permission_denied",
    summary: "The agent has another key since; to bring it back here, issue a token with `token create --rekey AGENT`.",
  },
  KEY_PROOF_INVALID: { code: "unauthenticated", summary: "The proof for the agent's new key does not hold." },
  AGENT_RETIRED: { code: "failed_precondition", summary: "The agent was retired." },
  AGENT_CONFLICT: {
    code: "failed_precondition",
    summary: "Two processes or runtimes claim the agent's identity; an operator releases or revokes it.",
  },
  AWAITING_DECISION: { code: "failed_precondition", summary: "The agent and the server disagree; a person decides." },
  CLIENT_CERTIFICATE_REQUIRED: {
    code: "permission_denied",
    summary: "The cluster requires a client certificate, and none came that the server's CA of clients issued.",
  },
  CLIENT_CERTIFICATE_MISMATCH: {
    code: "permission_denied",
    summary: "The agent is bound to another client certificate; an operator binds it anew.",
  },
  SESSION_EXPIRED: { code: "aborted", summary: "The session has ended; connect again." },
  SESSION_SUPERSEDED: { code: "aborted", summary: "Another session of this agent took over." },
  POLL_OUTDATED: { code: "aborted", summary: "A poll with this number or a higher one came before." },
  REPLICA_DRAINING: { code: "unavailable", summary: "The replica is going away; connect again." },
  PROTOCOL_VIOLATION: { code: "invalid_argument", summary: "A message on the stream is not allowed where it came." },
  PROTOCOL_UNSUPPORTED: { code: "failed_precondition", summary: "No version of the protocol is common to both ends." },

  // Instances and tunnels
  INSTANCE_UNKNOWN: { code: "not_found", summary: "Nothing of it matches, or its agent has no such instance." },
  INSTANCE_AMBIGUOUS: { code: "failed_precondition", summary: "More than one instance matches; name one of them." },
  INSTANCE_NOT_RUNNING: { code: "failed_precondition", summary: "The instance does not run now." },
  EXEC_UNSUPPORTED: { code: "failed_precondition", summary: "The agent's runtime cannot run the program like that." },
  DENIED_BY_HOST: {
    code: "permission_denied",
    summary: "The owner of the host denies the agent this (`--deny`), whatever the cluster's policy says.",
  },
  FOREIGN_CONTAINERS_NOT_REPORTED: {
    code: "failed_precondition",
    summary: "The cluster's policy does not ask for others' containers (`report_foreign_containers`).",
  },
  FOREIGN_CONTAINERS_UNSUPPORTED: {
    code: "failed_precondition",
    summary: "The agent's runtime has no containers, or the agent is too old to tell of others'.",
  },
  AGENT_OFFLINE: { code: "unavailable", summary: "The agent has no session now; `agent show` says since when." },
  TUNNEL_LIMIT: {
    code: "resource_exhausted",
    summary: "As many tunnels are open to the agent, or of yours, as may be; end one.",
  },
  TUNNEL_TIMEOUT: { code: "unavailable", summary: "The agent did not open the tunnel in time." },
  TUNNEL_LOST: { code: "unavailable", summary: "The tunnel to the agent broke." },
  TUNNEL_IDLE: { code: "aborted", summary: "Nothing went through the tunnel for too long." },
  TUNNEL_UNKNOWN: { code: "not_found", summary: "Nobody waits for this tunnel, or it is another agent's." },
  TUNNEL_UNREACHABLE: {
    code: "failed_precondition",
    summary: "Replicas cannot reach one another for tunnels; set --advertise-url at each.",
  },

  // Clusters and agents
  CLUSTER_MISMATCH: { code: "failed_precondition", summary: "The token is for a cluster of another kind." },
  CLUSTER_INACTIVE: { code: "failed_precondition", summary: "The cluster does not take work now." },
  CLUSTER_DELETING: { code: "failed_precondition", summary: "The cluster is being deleted." },
  CLUSTER_NOT_EMPTY: { code: "failed_precondition", summary: "The cluster still has agents or deployments." },
  CLUSTER_NOT_GRANTED: { code: "permission_denied", summary: "The cluster is not granted to your organisation." },
  BULK_ENROLMENT_NOT_ALLOWED: {
    code: "failed_precondition",
    summary: "The cluster's policy allows one use per registration token.",
  },
  AGENT_NOT_REVOKED: { code: "failed_precondition", summary: "Only a revoked or retired agent is deleted." },
  AGENT_ONLINE: { code: "failed_precondition", summary: "The agent is connected; only one that is gone is retired." },
  AGENT_NOT_EMPTY: { code: "failed_precondition", summary: "The agent still owes deployments." },
  AMBIGUOUS_NAME: { code: "invalid_argument", summary: "Several have this name; use the id." },
  NO_AGENT: { code: "failed_precondition", summary: "No agent of the cluster can take this." },

  // Commands
  COMMAND_ENDED: { code: "failed_precondition", summary: "The command has ended and stays as it is." },
  REMOVAL_NOT_CANCELLABLE: { code: "failed_precondition", summary: "A removal is carried out to its end." },
  NEWER_GENERATION: {
    code: "failed_precondition",
    summary: "A newer generation of the deployment exists; only that may be tried again.",
  },
  COMMAND_OPEN: { code: "failed_precondition", summary: "The command has not ended; there is nothing to try again." },
  SPEC_UNKNOWN: {
    code: "failed_precondition",
    summary: "What runs is the agent's own copy, whose spec the server does not have; publish again.",
  },
  DEPLOYMENT_ABSENT: { code: "failed_precondition", summary: "The deployment is removed for good." },

  // Products
  PRODUCT_EMPTY: { code: "failed_precondition", summary: "The product has no route to serve." },
  PUBLISH_NOT_DRAFT: { code: "failed_precondition", summary: "The publish was deployed already." },
  NOTHING_TO_ROLL_BACK_TO: {
    code: "failed_precondition",
    summary: "No earlier publish of the product was live there, or no earlier revision of the stack was stable.",
  },
  ROUTE_CONFLICT: { code: "already_exists", summary: "Another product answers on this address." },
  SECRET_UNKNOWN: { code: "failed_precondition", summary: "A backend or a stack names a secret that is not there." },
  SECRET_UNFIT: {
    code: "failed_precondition",
    summary: "A backend sends a secret as a header, and its value is none: one line of printable ASCII, at most 4096.",
  },
  SECRET_IN_USE: { code: "failed_precondition", summary: "What is published or deployed has the secret." },
  REGISTRY_IN_USE: { code: "failed_precondition", summary: "What is deployed has an image of the registry." },
  PRIVATE_BACKEND: { code: "failed_precondition", summary: "A backend may not point inside the place's network." },
  BACKEND_IN_USE: { code: "failed_precondition", summary: "A route still uses the backend." },
  GATEWAY_IN_USE: { code: "failed_precondition", summary: "A product still uses the gateway." },
  API_SERVICE_IN_USE: { code: "failed_precondition", summary: "A product still uses the API service." },
  PRODUCT_PUBLISHED: { code: "failed_precondition", summary: "The product is published; unpublish it first." },
  NOT_NEWEST_PUBLISH: { code: "failed_precondition", summary: "A newer publish of the product is on this cluster." },

  // Stacks
  COMPOSE_INVALID: { code: "invalid_argument", summary: "The Compose files are wrong; the violations say where." },
  COMPOSE_REFUSED_BY_POLICY: {
    code: "permission_denied",
    summary: "The Compose files ask for what the cluster's policy does not allow; the violations say where.",
  },
  CAPABILITY_MISSING: {
    code: "failed_precondition",
    summary: "No agent of the cluster can ever run a service; the violations say what it needs, and where.",
  },
  STACK_ELSEWHERE: { code: "failed_precondition", summary: "The stack is in another cluster, where it stays." },
  STACK_DELETING: { code: "failed_precondition", summary: "The stack is being removed." },
  SERVICE_UNKNOWN: { code: "invalid_argument", summary: "The stack has no such service." },
  ROLLOUT_ENDED: { code: "failed_precondition", summary: "The rollout has ended and stays as it is." },
  ROLLOUT_NOT_PROMOTABLE: {
    code: "failed_precondition",
    summary: "The rollout waits for no promotion, now or later.",
  },
  NO_DEFAULT_CLUSTER: { code: "failed_precondition", summary: "No cluster is named, and none is the default." },
} as const satisfies Record<string, { code: Code; summary: string }>;

/** What a caller switches on. */
export type Reason = keyof typeof reasons;

/** A wrong field of a request. */
export type Violation = {
  /** Its path as the request spells it: `routes[2].path.value`. */
  field: string;
  /** What is wrong with it and what would be right, as a sentence for people. */
  description: string;
};

/** What a problem may carry beside its reason and message. All of it reaches the caller: no secrets. */
export type ProblemDetails = {
  violations?: readonly Violation[];
  /** Facts for programs, as `google.rpc.ErrorInfo.metadata`: keys in lowerCamelCase. */
  metadata?: Readonly<Record<string, string>>;
  /** How long to wait before the same request may succeed. */
  retryAfterMs?: number;
  /** What was caught; for the log only. */
  cause?: unknown;
};

/** An expected failure on its way to a caller. Everything else that is thrown is a defect (INTERNAL). */
export class Problem extends Error {
  override readonly name = "Problem";
  readonly reason: Reason;
  readonly code: Code;
  readonly violations: readonly Violation[];
  readonly metadata: Readonly<Record<string, string>>;
  readonly retryAfterMs: number | undefined;

  constructor(reason: Reason, message: string, details: ProblemDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.reason = reason;
    this.code = reasons[reason].code;
    this.violations = details.violations ?? [];
    this.metadata = details.metadata ?? {};
    this.retryAfterMs = details.retryAfterMs;
  }
}

/** A problem to throw: `throw problem("NOT_FOUND", "no cluster eu-1")`. Without a message it says the reason's summary. */
export function problem(
  reason: Reason,
  message: string = reasons[reason].summary,
  details: ProblemDetails = {},
): Problem {
  return new Problem(reason, message, details);
}

/** True if `error` is a problem, and of this reason where one is named. */
export function isProblem(error: unknown, reason?: Reason): error is Problem {
  return error instanceof Problem && (reason === undefined || error.reason === reason);
}

/** True if `text` is a reason that this build knows; what a newer peer says may not be. */
export function isReason(text: string): text is Reason {
  return Object.hasOwn(reasons, text);
}
