/** AgentService.Examine: a dial that opens nothing, for `agent doctor`. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import type { ExamineRequest, ExamineResponseSchema } from "@bowline/contract/agent";
import { problem } from "@bowline/kernel";
import type { Examined } from "../agents/index.ts";
import type { RequestFacts } from "../platform/context.ts";
import { conflictProblem } from "./conflict.ts";
import type { Asserted } from "./greet.ts";
import { protocolVersion } from "./open.ts";

export interface ExaminePorts {
  serverVersion: string;
  /** See agents/examine.ts. */
  examineToken(token: string, request: RequestFacts): Promise<Examined>;
  examineAgent(agentId: string, request: RequestFacts): Promise<{ examined: Examined; conflict: string | undefined }>;
  /** Verifies an assertion, as for a dial, and keeps nothing of it. */
  verify(assertion: string): Promise<Asserted>;
}

/** See AgentService.Examine for its errors. */
export async function examine(
  ports: ExaminePorts,
  asked: ExamineRequest,
  request: RequestFacts,
): Promise<MessageInitShape<typeof ExamineResponseSchema>> {
  const { registrationToken, assertion } = asked;
  if (registrationToken !== "" && assertion !== "")
    throw problem("INVALID_ARGUMENT", "Send a registration token or an assertion, not both.");
  if (registrationToken === "" && assertion === "")
    throw problem("INVALID_ARGUMENT", "Send a registration token or an assertion.", {
      violations: [{ field: "assertion", description: "is missing, and so is registration_token" }],
    });
  return {
    serverTime: timestampNow(),
    serverVersion: ports.serverVersion,
    protocolMin: protocolVersion,
    protocolMax: protocolVersion,
    ...(registrationToken === "" ? {} : await ports.examineToken(registrationToken, request)),
    ...(assertion === "" ? {} : await agentOf(ports, assertion, request)),
  };
}

async function agentOf(ports: ExaminePorts, assertion: string, request: RequestFacts): Promise<Examined> {
  const { agentId } = await ports.verify(assertion);
  const { examined, conflict } = await ports.examineAgent(agentId, request);
  if (conflict !== undefined) throw conflictProblem(conflict);
  return examined;
}
