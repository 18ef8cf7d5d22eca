/**
 * Idempotency keys: per principal and method, kept in the transaction of the
 * work. The same key and body gives the same answer; another body is
 * IDEMPOTENCY_CONFLICT.
 */
import { createHash } from "node:crypto";
import { type DescMessage, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { insertRows } from "@bowline/db";
import { crashPoint, problem } from "@bowline/kernel";
import { sql } from "kysely";
import type { Principal } from "./context.ts";
import { type Db, transact, type Work } from "./transactions.ts";

export interface Call<Req extends DescMessage, Res extends DescMessage> {
  principal: Principal;
  method: string;
  key: string;
  request: MessageShape<Req>;
  requestSchema: Req;
  responseSchema: Res;
}

/** Runs `body` once per key. Without a key it simply runs. */
export async function once<Req extends DescMessage, Res extends DescMessage>(
  db: Db,
  call: Call<Req, Res>,
  body: (work: Work) => Promise<MessageShape<Res>>,
): Promise<MessageShape<Res>> {
  const answer = await transact(db, async (work) => {
    const response = await (call.key === "" ? body(work) : keyed(work, call, body));
    crashPoint("request.before-commit");
    return response;
  });
  crashPoint("request.committed");
  return answer;
}

/** Which of the calls may be done in this transaction: those without a key, and the first of a key that is free and new. */
export async function areFirst<Req extends DescMessage, Res extends DescMessage>(
  work: Work,
  calls: readonly Call<Req, Res>[],
): Promise<boolean[]> {
  const names = calls.map((call) => (call.key === "" ? "" : nameOf(call)));
  const wanted = [...new Set(names)].filter((name) => name !== "").toSorted();
  if (wanted.length === 0) return calls.map(() => true);
  // Two statements: what was committed before a lock was free is seen only by the one that follows.
  const { rows: free } = await sql<{ name: string }>`
    SELECT n.name FROM unnest(${wanted}::text[]) AS n (name)
    WHERE pg_try_advisory_xact_lock(hashtextextended(n.name, 7))`.execute(work.tx);
  const { rows: known } = await sql<{ name: string }>`
    SELECT k.principal_id || ' ' || k.method || ' ' || k.key AS name FROM idempotency_keys AS k
    JOIN unnest(${calls.map((call) => call.principal.id)}::text[], ${calls.map((call) => call.method)}::text[],
      ${calls.map((call) => call.key)}::text[]) AS n (principal_id, method, key) USING (principal_id, method, key)`.execute(
    work.tx,
  );
  const first = new Set(free.map((row) => row.name));
  for (const { name } of known) first.delete(name);
  return names.map((name) => name === "" || first.delete(name));
}

/** Keeps the answers of calls that have a key, each the first of its key (`areFirst`). */
export async function keepAnswers<Req extends DescMessage, Res extends DescMessage>(
  work: Work,
  answered: readonly { call: Call<Req, Res>; response: MessageShape<Res> }[],
): Promise<void> {
  const rows = answered
    .filter(({ call }) => call.key !== "")
    .map(({ call, response }) => ({
      principal_id: call.principal.id,
      method: call.method,
      key: call.key,
      request_hash: hashOf(call),
      response: Buffer.from(toBinary(call.responseSchema, response)),
    }));
  await insertRows(work.tx, "idempotency_keys", keyColumns, rows);
}

const keyColumns = { text: ["principal_id", "method", "key"], bytea: ["request_hash", "response"] } as const;

function nameOf({ principal, method, key }: Pick<Call<DescMessage, DescMessage>, "principal" | "method" | "key">) {
  return `${principal.id} ${method} ${key}`;
}

function hashOf<Req extends DescMessage, Res extends DescMessage>(call: Call<Req, Res>): Buffer {
  return createHash("sha256").update(toBinary(call.requestSchema, call.request)).digest();
}

async function keyed<Req extends DescMessage, Res extends DescMessage>(
  work: Work,
  call: Call<Req, Res>,
  body: (work: Work) => Promise<MessageShape<Res>>,
): Promise<MessageShape<Res>> {
  // Two calls with one key at once: the second waits here and then finds the answer.
  await sql`SELECT pg_advisory_xact_lock(hashtextextended(${nameOf(call)}, 7))`.execute(work.tx);
  const known = await work.tx
    .selectFrom("idempotency_keys")
    .select(["request_hash", "response"])
    .where("principal_id", "=", call.principal.id)
    .where("method", "=", call.method)
    .where("key", "=", call.key)
    .executeTakeFirst();
  if (known !== undefined) {
    if (!hashOf(call).equals(known.request_hash)) throw problem("IDEMPOTENCY_CONFLICT");
    return fromBinary(call.responseSchema, known.response);
  }
  const response = await body(work);
  await keepAnswers(work, [{ call, response }]);
  return response;
}
