/**
 * Secrets of stacks: those of the API, by name, and those that came with the
 * stack, which are its own.
 *
 * X1: what came with a stack has no name of the API: no stack changes or reads
 *     a secret that somebody else made, whatever they are called.
 * X2: nothing of it is left when the stack is DELETED.
 * X3: what is kept of a request, hashed, beside its key is hashed with a key:
 *     who has the database cannot try passwords on it.
 */
import { create } from "@bufbuild/protobuf";
import {
  type ApplyStackRequest,
  ComposeFileSchema,
  type ComposeSource,
  ComposeSourceSchema,
} from "@bowline/contract/stacks";
import type { Tx } from "../platform/transactions.ts";
import type { StackPorts } from "./ports.ts";
import type { StackModel } from "./revisions.ts";
import type { StackRow } from "./rows.ts";

/** The name in a spec of a secret of the stack: no secret of the API has a dot in its name (X1). */
export function secretOf(model: StackModel, name: string): string {
  const source = model.secrets.find((secret) => secret.name === name)?.source;
  return source?.kind === "external" ? source.name : givenName(name);
}

function givenName(name: string): string {
  return `given.${name}`;
}

/** The newest version of each secret that a model needs, by its name in specs. Throws SECRET_UNKNOWN. */
export async function versionsOf(
  ports: StackPorts,
  tx: Tx,
  stack: Pick<StackRow, "id" | "organisation_id">,
  model: StackModel,
): Promise<Record<string, string>> {
  const external = model.secrets.flatMap(({ source }) => (source.kind === "external" ? [source.name] : []));
  const given = model.secrets.flatMap(({ name, source }) => (source.kind === "external" ? [] : [name]));
  const versions = await ports.secretVersions(tx, stack.organisation_id, external);
  const own = await ports.givenVersions(tx, stack.id, given);
  return { ...versions, ...Object.fromEntries(Object.entries(own).map(([name, at]) => [givenName(name), at])) };
}

/** What `versionsOf` would say after an apply of these values. Changes nothing. Throws SECRET_UNKNOWN. */
export async function versionsAfter(
  ports: Pick<StackPorts, "secretVersions" | "plannedVersions">,
  tx: Tx,
  stack: Pick<StackRow, "id" | "organisation_id">,
  { model, secrets }: { model: StackModel; secrets: ReadonlyMap<string, Uint8Array> },
): Promise<Record<string, string>> {
  const external = model.secrets.flatMap(({ source }) => (source.kind === "external" ? [source.name] : []));
  const versions = await ports.secretVersions(tx, stack.organisation_id, external);
  const own = await ports.plannedVersions(tx, stack.id, secrets);
  return { ...versions, ...Object.fromEntries(Object.entries(own).map(([name, at]) => [givenName(name), at])) };
}

/** A request without anything that may be a secret's content, but with another source where that was another (X3). */
export function withoutContents(
  ports: Pick<StackPorts, "keyedHash">,
  request: ApplyStackRequest,
  source: ComposeSource,
): ApplyStackRequest {
  const sorted = Object.entries(source.environment).toSorted(([a], [b]) => (a < b ? -1 : 1));
  const said = [source.files, source.referred].map((files) =>
    files.map(({ name, content }) => [name, Buffer.from(content).toString("base64")]),
  );
  const hash = ports.keyedHash(JSON.stringify([...said, sorted, source.profiles]));
  const files = [create(ComposeFileSchema, { name: "hash", content: hash })];
  return { ...request, source: create(ComposeSourceSchema, { files }) };
}
