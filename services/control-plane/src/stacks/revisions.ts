/**
 * Revisions: the models that a stack was made of, each kept for good.
 *
 * V1: the same model as the one that is wanted now gives the same revision.
 * V2: no content of a secret is in one.
 */
import { createHash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { diffStacks, printStack, type Stack as StackModel } from "@bowline/compose";
import { type Change, Change_Kind, ChangeSchema } from "@bowline/contract/products";
import { problem } from "@bowline/kernel";
import type { Caller } from "../platform/context.ts";
import type { Db, Tx } from "../platform/transactions.ts";
import type { StackRow } from "./rows.ts";

export type { StackModel };

/** The number of the model's revision: a new one where it differs from `current`. The caller holds the stack. */
export async function addRevision(
  tx: Tx,
  { principal }: Caller,
  stack: Pick<StackRow, "id" | "revision">,
  model: StackModel,
): Promise<number> {
  const text = JSON.stringify(model);
  const digest = createHash("sha256").update(text).digest("hex");
  const newest = await tx
    .selectFrom("stack_revisions")
    .select(["number", "digest"])
    .where("stack_id", "=", stack.id)
    .orderBy("number", "desc")
    .limit(1)
    .executeTakeFirst();
  const current = await tx
    .selectFrom("stack_revisions")
    .select("digest")
    .where("stack_id", "=", stack.id)
    .where("number", "=", stack.revision)
    .executeTakeFirst();
  if (current?.digest === digest) return stack.revision; // V1
  const number = (newest?.number ?? 0) + 1;
  await tx
    .insertInto("stack_revisions")
    .values({
      ...{ stack_id: stack.id, number, digest },
      model: text,
      normalised: printStack(model),
      created_by: principal.id,
    })
    .execute();
  return number;
}

/** Throws NOT_FOUND. */
export async function modelOf(db: Db | Tx, stackId: string, number: number): Promise<StackModel> {
  return (await revisionOf(db, stackId, number)).model as StackModel;
}

/** As `modelOf`, with the Compose file that it makes. */
export async function revisionOf(db: Db | Tx, stackId: string, number: number) {
  const row = await db
    .selectFrom("stack_revisions")
    .select(["number", "model", "normalised"])
    .where("stack_id", "=", stackId)
    .where("number", "=", number)
    .executeTakeFirst();
  if (row === undefined) throw problem("NOT_FOUND", `The stack has no revision ${number}.`);
  return row;
}

/** What differs between two revisions; 0 stands for what StackService.DiffStack says. Throws NOT_FOUND. */
export async function diffRevisions(
  db: Db,
  stack: StackRow,
  { from, to }: { from: number; to: number },
): Promise<Change[]> {
  const after = to || stack.revision;
  const before = from || after - 1;
  return diffModels(before === 0 ? undefined : await modelOf(db, stack.id, before), await modelOf(db, stack.id, after));
}

/** What differs, as the API shows it. */
export function diffModels(before: StackModel | undefined, after: StackModel): Change[] {
  const side = (stack: StackModel | undefined) => (stack === undefined ? {} : { stack });
  return diffStacks(side(before), side(after)).map(({ kind, name, change, field, ...values }) =>
    create(ChangeSchema, {
      kind: { added: Change_Kind.ADDED, removed: Change_Kind.REMOVED, changed: Change_Kind.CHANGED }[change],
      path: [`${kind}s`, name, ...(field === "" ? [] : [field])].join("/"),
      before: values.before === undefined ? "" : JSON.stringify(values.before),
      after: values.after === undefined ? "" : JSON.stringify(values.after),
    }),
  );
}
