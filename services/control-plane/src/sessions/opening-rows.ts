/** The rows of openings, read under lock and written in sets (openings.ts). */
import type { ConnectRequest } from "@bowline/contract/agent";
import { sql } from "kysely";
import type { Work } from "../platform/transactions.ts";
import type { SessionTransport } from "./live.ts";
import type { OpenedSession } from "./open.ts";

export interface OpeningFacts {
  agentId: string;
  counter: number;
  /** Of the key that signed the assertion. */
  thumbprint: string;
  replicaId: string;
  remoteAddress: string;
  /** Thumbprint of the connection's client certificate; empty: none. */
  clientCertificate: string;
  transport: SessionTransport;
  greeting: ConnectRequest;
}

/** An agent of a set, with what its rows say. */
export interface Opening {
  facts: OpeningFacts;
  agent: AgentRow;
  before: SessionRow | undefined;
}

export interface AgentRow {
  clusterId: string;
  state: string;
  conflict: string;
  thumbprint: string;
  runtimeIdentity: string;
  journalId: string;
  journalCounter: number;
  certificate: string;
  policy: unknown;
}

export interface SessionRow {
  epoch: number;
  counter: number;
  replicaId: string;
  processId: string;
  state: string;
}

/**
 * Locks the agents' rows, then those of their sessions (T2), each in order of
 * id. Who does not exist is left out; "busy": somebody holds a row, and
 * `waits` is false.
 */
export async function lockRows(work: Work, ids: readonly string[], waits: boolean) {
  const skip = waits ? sql`` : sql`SKIP LOCKED`;
  const asked = await sql<AgentRow & { id: string; known: boolean }>`
    WITH held AS (
      SELECT a.id, a.cluster_id AS "clusterId", a.state, a.conflict, a.signing_thumbprint AS thumbprint,
        a.runtime_identity AS "runtimeIdentity", a.journal_id AS "journalId", a.journal_counter AS "journalCounter",
        a.client_certificate AS certificate, c.policy
      FROM agents AS a JOIN clusters AS c ON c.id = a.cluster_id
      WHERE a.id = ANY(${ids}::text[]) ORDER BY a.id FOR NO KEY UPDATE OF a ${skip})
    SELECT held."clusterId", held.state, held.conflict, held.thumbprint, held."runtimeIdentity", held."journalId",
      held."journalCounter", held.certificate, held.policy, a.id, held.id IS NOT NULL AS known
    FROM agents AS a LEFT JOIN held ON held.id = a.id WHERE a.id = ANY(${ids}::text[])`.execute(work.tx);
  const mine = asked.rows.filter(({ known }) => known).map(({ id }) => id);
  const sessions = await sql<SessionRow & { agentId: string; known: boolean }>`
    WITH held AS (
      SELECT agent_id, epoch, assertion_counter, replica_id, process_id, state FROM sessions
      WHERE agent_id = ANY(${mine}::text[]) ORDER BY agent_id FOR UPDATE ${skip})
    SELECT s.agent_id AS "agentId", held.epoch, held.assertion_counter AS counter, held.replica_id AS "replicaId",
      held.process_id AS "processId", held.state, held.agent_id IS NOT NULL AS known
    FROM sessions AS s LEFT JOIN held ON held.agent_id = s.agent_id WHERE s.agent_id = ANY(${mine}::text[])`.execute(
    work.tx,
  );
  const before = new Map(sessions.rows.map((row) => [row.agentId, row]));
  return new Map(
    asked.rows.map((agent) => {
      const session = before.get(agent.id);
      const busy = !agent.known || session?.known === false;
      return [agent.id, busy ? ("busy" as const) : { agent, before: session }];
    }),
  );
}

export async function writeSessions(
  work: Work,
  openings: readonly Opening[],
  opened: readonly { agentId: string; session: OpenedSession }[],
): Promise<void> {
  const of = <T>(read: (facts: OpeningFacts) => T): T[] => openings.map(({ facts }) => read(facts));
  await sql`
    INSERT INTO sessions (agent_id, id, epoch, assertion_counter, replica_id, process_id, state, remote_address, opened_at,
      ended_at, end_reason, transport, journal_whole, poll_number)
    SELECT n.agent_id, n.id, n.epoch, n.counter, n.replica_id, n.process_id, 'SYNCING', n.remote_address, now(),
      NULL, '', n.transport, n.journal_whole, 0
    FROM unnest(${opened.map(({ agentId }) => agentId)}::text[], ${opened.map(({ session }) => session.sessionId)}::text[],
      ${opened.map(({ session }) => session.epoch)}::int[], ${of((one) => one.counter)}::bigint[],
      ${of((one) => one.replicaId)}::text[], ${of((one) => one.greeting.processId)}::text[],
      ${of((one) => one.remoteAddress)}::text[], ${of((one) => one.transport)}::text[],
      ${opened.map(({ session }) => session.journalWhole)}::boolean[])
      AS n (agent_id, id, epoch, counter, replica_id, process_id, remote_address, transport, journal_whole)
    ON CONFLICT (agent_id) DO UPDATE SET id = excluded.id, epoch = excluded.epoch,
      assertion_counter = excluded.assertion_counter, replica_id = excluded.replica_id,
      process_id = excluded.process_id, state = excluded.state, remote_address = excluded.remote_address,
      opened_at = excluded.opened_at, ended_at = NULL, end_reason = '', transport = excluded.transport,
      journal_whole = excluded.journal_whole, poll_number = 0`.execute(work.tx);
}

export async function writeAgents(work: Work, openings: readonly Opening[]): Promise<void> {
  const of = <T>(read: (greeting: ConnectRequest) => T): T[] => openings.map(({ facts }) => read(facts.greeting));
  await sql`
    UPDATE agents SET journal_id = n.journal_id, journal_counter = n.journal_counter, agent_version = n.agent_version,
      runtime_version = n.runtime_version, runtime_problem = n.runtime_problem, reported_labels = n.labels::jsonb,
      capabilities = n.capabilities::jsonb, updated_at = now()
    FROM unnest(${openings.map(({ facts }) => facts.agentId)}::text[], ${of((one) => one.journalId)}::text[],
      ${of((one) => one.journalCounter)}::bigint[], ${of((one) => one.agentVersion)}::text[],
      ${of((one) => one.runtimeVersion)}::text[], ${of((one) => one.runtimeProblem)}::text[],
      ${of((one) => JSON.stringify(one.labels))}::text[], ${of((one) => JSON.stringify(one.capabilities))}::text[])
      AS n (id, journal_id, journal_counter, agent_version, runtime_version, runtime_problem, labels, capabilities)
    WHERE agents.id = n.id`.execute(work.tx);
}
