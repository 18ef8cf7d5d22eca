/**
 * Idempotency keys: per principal and method, kept in the transaction of the
 * work. The same key and body gives the same answer; another body is
 * IDEMPOTENCY_CONFLICT.
 */
import { createHash } from "node:crypto";
import { type DescMessage, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
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

async function keyed<Req extends DescMessage, Res extends DescMessage>(
  work: Work,
  call: Call<Req, Res>,
  body: (work: Work) => Promise<MessageShape<Res>>,
): Promise<MessageShape<Res>> {
  const hash = createHash("sha256").update(toBinary(call.requestSchema, call.request)).digest();
  const name = `${call.principal.id} ${call.method} ${call.key}`;
  // Two calls with one key at once: the second waits here and then finds the answer.
  await sql`SELECT pg_advisory_xact_lock(hashtextextended(${name}, 7))`.execute(work.tx);
  const known = await work.tx
    .selectFrom("idempotency_keys")
    .select(["request_hash", "response"])
    .where("principal_id", "=", call.principal.id)
    .where("method", "=", call.method)
    .where("key", "=", call.key)
    .executeTakeFirst();
  if (known !== undefined) {
    if (!hash.equals(known.request_hash)) throw problem("IDEMPOTENCY_CONFLICT");
    return fromBinary(call.responseSchema, known.response);
  }
  const response = await body(work);
  await work.tx
    .insertInto("idempotency_keys")
    .values({
      principal_id: call.principal.id,
      method: call.method,
      key: call.key,
      request_hash: hash,
      response: Buffer.from(toBinary(call.responseSchema, response)),
    })
    .execute();
  return response;
}
