/** What the server answers to `doctor`, and what that says of clock, token and version: one question tells all three. */
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { clockSkewMs } from "@bowline/auth";
import { AgentService, type ExamineResponse } from "@bowline/contract/agent";
import { ErrorInfoSchema } from "@bowline/contract/errors";
import { dialErrorOf } from "@bowline/dial";
import { refusalOf } from "@bowline/session";
import { failed, type Found, ok } from "./doctor-steps.ts";
import { agentVersion, protocol } from "./version.ts";

/** What this host would show: the key of its agent, else a registration token. */
export type Credential =
  | { kind: "agent"; assertions: readonly string[] }
  | { kind: "token"; token: string }
  | { kind: "none" };

/** An answer takes a round trip and a read of the database; more is a dead way. */
const answerWithinMs = 15_000;

const remedies: Readonly<Record<string, string>> = {
  REGISTRATION_TOKEN_MALFORMED: "Copy the token whole; it begins with bwr_.",
  REGISTRATION_TOKEN_UNKNOWN: "Ask an operator for a token of this server: bowline token create --cluster <name>",
  REGISTRATION_TOKEN_USED: "Ask an operator for another: bowline token create --cluster <name>",
  REGISTRATION_TOKEN_EXPIRED: "Ask an operator for another: bowline token create --cluster <name>",
  REGISTRATION_TOKEN_REVOKED: "Ask an operator for another: bowline token create --cluster <name>",
  AGENT_REVOKED: "An operator ended this agent for good. Enrol with a new token and an empty data folder.",
  AGENT_RETIRED: "An operator retired this agent. Enrol with a new token and an empty data folder.",
  AGENT_KEY_REPLACED: "Another host is this agent now. To bring it back here: bowline token create --rekey <agent>",
  AGENT_CONFLICT: "Two claim to be this agent. An operator decides: bowline agent get <agent>",
  ASSERTION_INVALID: "This server does not know the key in the data folder. Name the right --data-dir, or enrol anew.",
  CLIENT_CERTIFICATE_REQUIRED: "Give --client-cert and --client-key, of the CA that the server trusts for agents.",
  CLIENT_CERTIFICATE_MISMATCH: "Give the certificate that it is bound to, or: bowline agent bind-certificate <agent>",
};

export type Answer = {
  /** How far this host's clock is ahead of the server's; undefined: the server told no time. */
  aheadMs: number | undefined;
  tookMs: number;
} & ({ response: ExamineResponse } | { response?: undefined; reason: string; message: string; ours: boolean });

/** Asks, and takes the time of the answer's Date, whether it is a refusal or not. */
export async function ask(
  transport: Transport,
  request: { registrationToken?: string; assertion?: string },
  now: () => number,
): Promise<Answer> {
  const startedAt = performance.now();
  let date: string | null = null;
  const timed = () => {
    const tookMs = performance.now() - startedAt;
    const at = date === null ? Number.NaN : Date.parse(date);
    return { tookMs, aheadMs: Number.isNaN(at) ? undefined : now() - tookMs / 2 - at };
  };
  try {
    const response = await createClient(AgentService, transport).examine(request, {
      timeoutMs: answerWithinMs,
      onHeader: (headers) => void (date = headers.get("date")),
    });
    return { ...timed(), response };
  } catch (error) {
    const found = ConnectError.from(error);
    date ??= found.metadata.get("date");
    const { reason, message } = refusalOf(error);
    const way = dialErrorOf(error);
    const ours =
      way === undefined && (found.findDetails(ErrorInfoSchema).length > 0 || found.code === Code.Unauthenticated);
    return { ...timed(), reason, message, ours };
  }
}

/** True: it was a Bowline server that answered. */
export function judge(answer: Answer, found: Found, credential: Credential): boolean {
  const { response, aheadMs } = answer;
  const unknown = response === undefined && answer.reason === "UNKNOWN_METHOD";
  if (response === undefined && !answer.ours) {
    // It ended on the way, or what answered is no server of ours.
    if (found.get("http2")?.state === "failed") return false;
    failed(found, "http2", {
      reason: "NO_BOWLINE_SERVER",
      detail: `what answers does not answer like a Bowline server: ${answer.message}`,
      remedy: "Look at the URL, its path too, and at what stands in front of the server.",
    });
    return false;
  }
  const skewed = response === undefined && answer.reason === "CLOCK_SKEW";
  if (skewed || (aheadMs !== undefined && Math.abs(aheadMs) > clockSkewMs)) {
    const apart =
      aheadMs === undefined
        ? "apart from"
        : `${Math.round(Math.abs(aheadMs) / 1000)} s ${aheadMs > 0 ? "ahead of" : "behind"}`;
    const detail = `this host's clock is ${apart} the server's; more than ${clockSkewMs / 1000} s is refused`;
    failed(found, "clock", {
      reason: "CLOCK_SKEW",
      detail,
      remedy: "Set it, and let it be kept: timedatectl set-ntp true",
    });
    return true;
  }
  const second =
    aheadMs === undefined
      ? "the server tells no time"
      : `within ${Math.max(1, Math.ceil(Math.abs(aheadMs) / 1000))} s of the server's`;
  ok(found, "clock", second);
  if (unknown) {
    failed(found, "version", {
      reason: "SERVER_TOO_OLD",
      detail: "the server does not know this question; the token was not looked at",
      remedy: "Upgrade the server, or read the agent's log.",
    });
    return true;
  }
  if (credential.kind === "none") {
    failed(found, "token", {
      reason: "NOT_ENROLLED",
      detail: "no agent has enrolled in this data folder, and no registration token is given",
      remedy: "Name the agent's folder with --data-dir, or give a token with --token-file.",
    });
    return true;
  }
  if (response === undefined) {
    const remedy = remedies[answer.reason] ?? "The server's log says more.";
    failed(found, "token", { reason: answer.reason, detail: answer.message, remedy });
    return true;
  }
  ok(found, "token", whose(response, credential), answer.tookMs);
  judgeVersion(response, found);
  return true;
}

function whose({ agent, cluster, awaitingDecision }: ExamineResponse, credential: Credential): string {
  if (credential.kind === "token")
    return agent === "" ? `it enrols an agent in ${cluster}` : `it makes this host the agent ${agent} of ${cluster}`;
  const waits = awaitingDecision ? "; it waits for an operator's decision: bowline agent accept" : "";
  return `the key is that of ${agent} of ${cluster}${waits}`;
}

function judgeVersion({ protocolMin, protocolMax, serverVersion }: ExamineResponse, found: Found): void {
  const range = (min: number, max: number) => (min === max ? String(min) : `${min} to ${max}`);
  const said = `server ${serverVersion} speaks protocol ${range(protocolMin, protocolMax)}, agent ${agentVersion} ${range(protocol.min, protocol.max)}`;
  if (protocol.min <= protocolMax && protocol.max >= protocolMin) return ok(found, "version", said);
  const remedy = protocol.max < protocolMin ? "Upgrade this agent." : "Upgrade the server, or take an older agent.";
  failed(found, "version", { reason: "PROTOCOL_UNSUPPORTED", detail: said, remedy });
}
