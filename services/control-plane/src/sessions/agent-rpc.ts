/**
 * AgentService: an agent's stream and its unary calls, over our own wire; over
 * connect-node what that does not take (compressed messages, gRPC-Web, HTTP/1.1).
 */
import type { ConnectRouter } from "@connectrpc/connect";
import { AgentService, type EnrollRequest, type EnrollResponse, type RotateKeyRequest } from "@bowline/contract/agent";
import type { Clock } from "@bowline/kernel";
import {
  acceptDuplex,
  acceptSession,
  hangUpKey,
  maxStreamMessageBytes,
  type PushedSession,
  type WireHandlers,
} from "@bowline/session";
import { type CalledBy, type RequestFacts, requestKey } from "../platform/context.ts";
import type { CertificateGuard } from "./certificates.ts";
import { examine, type ExaminePorts } from "./examine.ts";
import { type FetchPorts, fetchDeployments, type SessionClaims } from "./fetch.ts";
import type { Asserted } from "./greet.ts";
import type { Misuse } from "./misuse.ts";
import { serveStream, type StreamPorts } from "./stream.ts";

export interface AgentRpcPorts {
  clock: Clock;
  silenceLimitMs: number;
  serverVersion: string;
  installationId: string;
  fetching: FetchPorts;
  certificates: CertificateGuard;
  misuse: Misuse;
  examining: Pick<ExaminePorts, "examineToken" | "examineAgent">;
  /** What a stream needs; asked for when the first is dialled. */
  session(): StreamPorts;
  enrol(request: EnrollRequest, context: CalledBy): Promise<EnrollResponse>;
  rotateKey(claims: SessionClaims, installationId: string, request: RotateKeyRequest, by: CalledBy): Promise<string>;
  /** Verifies the assertion of a dial, and counts it. */
  dialled(context: CalledBy): Promise<Asserted>;
  /** Verifies an assertion. */
  verified(assertion: string, request: RequestFacts): Promise<Asserted>;
  /** The session that a unary call belongs to, as its access token says. */
  called(context: CalledBy): Promise<SessionClaims>;
}

export interface AgentRpc {
  /** For our own wire. */
  handlers: WireHandlers<typeof AgentService>;
  /** The same for Connect. */
  register(router: ConnectRouter): void;
}

/** Calls back when a call is over, or cancelled. */
type Aborted = (callback: () => void) => void;

export function createAgentRpc(ports: AgentRpcPorts): AgentRpc {
  const bounds = { clock: ports.clock, silenceMs: ports.silenceLimitMs };
  const unary = {
    enroll: (request, call) => ports.enrol(request, call),
    examine: (request, { values }) => {
      const facts = values.get(requestKey);
      const verify = (assertion: string) => ports.verified(assertion, facts);
      return examine({ ...ports.examining, serverVersion: ports.serverVersion, verify }, request, facts);
    },
    fetchDeployments: async (request, call) => fetchDeployments(ports.fetching, await ports.called(call), request),
    rotateKey: async (request, call) => {
      const claims = await ports.called(call);
      return { thumbprint: await ports.rotateKey(claims, ports.installationId, request, call) };
    },
  } satisfies {
    [Name in Exclude<keyof WireHandlers<typeof AgentService>, "connect">]: (
      request: Parameters<WireHandlers<typeof AgentService>[Name]>[0],
      call: CalledBy,
    ) => ReturnType<WireHandlers<typeof AgentService>[Name]>;
  };

  async function serve(
    asserted: Asserted,
    { values }: CalledBy,
    session: PushedSession,
    aborted: Aborted,
  ): Promise<void> {
    const request = values.get(requestKey);
    const { remoteAddress, clientCertificate = "" } = request;
    try {
      await serveStream(ports.session(), asserted, { remoteAddress, clientCertificate }, session, aborted);
    } catch (error) {
      await ports.certificates.note(asserted.agentId, request, error);
      ports.misuse.refused(asserted.agentId, error, request);
      throw error;
    }
  }

  return {
    handlers: {
      ...unary,
      async connect(duplex, call) {
        const asserted = await ports.dialled(call);
        await serve(asserted, call, acceptDuplex(duplex, { ...bounds, hangUp: () => call.hangUp() }), (callback) =>
          call.aborted(callback),
        );
      },
    },
    register(router) {
      router.service(
        AgentService,
        {
          ...unary,
          async *connect(messages, context) {
            const asserted = await ports.dialled(context);
            const session = acceptSession(messages, { ...bounds, hangUp: context.values.get(hangUpKey) });
            const served = serve(asserted, context, session, (callback) =>
              context.signal.addEventListener("abort", callback, { once: true }),
            );
            served.catch(() => undefined); // thrown below
            try {
              yield* session.outgoing;
            } finally {
              await served;
            }
          },
        },
        // What an agent asks by unary calls is smaller than that too.
        { readMaxBytes: maxStreamMessageBytes },
      );
    },
  };
}
