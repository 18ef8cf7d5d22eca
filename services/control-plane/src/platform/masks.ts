/** Updates by field mask: which fields of a resource change, and to what. */
import { clone, type DescField, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { reflect } from "@bufbuild/protobuf/reflect";
import type { FieldMask } from "@bufbuild/protobuf/wkt";
import { problem, type Violation } from "@bowline/kernel";

/** What an update says, beside the resource itself. */
export interface Update<Desc extends DescMessage> {
  schema: Desc;
  /** The resource as it is. */
  before: MessageShape<Desc>;
  /** The resource as the request has it. */
  patch: MessageShape<Desc>;
  /** Empty or unset: those fields that the patch has. */
  mask: FieldMask | undefined;
  /** Names of fields that an update may change, as the proto spells them. */
  changeable: readonly string[];
  /** Fields that exist and never change: naming one with another value is an error. All others are output only and ignored. */
  fixed?: readonly string[];
  /** Where the resource stands in the request, for violations. */
  at: string;
}

/**
 * The resource after the update; `before` stays as it is. A path may name a
 * field of a changeable message (`policy.allow_host_paths`); maps and lists are
 * replaced whole. What is output only is ignored, so that what was read may be
 * sent back whole. Throws INVALID_ARGUMENT for a path that is unknown, and for
 * another value of a field that never changes.
 */
export function updated<Desc extends DescMessage>(update: Update<Desc>): MessageShape<Desc> {
  const { schema, patch, changeable, fixed = [] } = update;
  const after = clone(schema, update.before);
  const to = reflect(schema, after);
  const from = reflect(schema, patch);
  const given = (update.mask?.paths ?? []).map(snakeCase);
  const paths = given.length > 0 ? given : schema.fields.filter((field) => from.isSet(field)).map(({ name }) => name);
  const violations: Violation[] = [];
  for (const path of paths) {
    const [name = "", inner, ...deeper] = path.split(".");
    const field = schema.fields.find((candidate) => candidate.name === name);
    const nested: DescField | undefined =
      inner === undefined || field?.fieldKind !== "message"
        ? undefined
        : field.message.fields.find((candidate) => candidate.name === inner);
    if (field === undefined || deeper.length > 0 || (inner !== undefined && nested === undefined)) {
      violations.push({ field: "update_mask", description: `${update.at} has no field ${path}.` });
    } else if (!changeable.includes(name)) {
      if (fixed.includes(name) && from.isSet(field) && from.get(field) !== to.get(field)) {
        violations.push({ field: `${update.at}.${name}`, description: `${name} never changes.` });
      }
    } else if (nested !== undefined && field.fieldKind === "message") {
      const target = to.get(field);
      const source = from.get(field);
      if (source.isSet(nested)) target.set(nested, source.get(nested));
      else target.clear(nested);
      to.set(field, target);
    } else if (from.isSet(field)) {
      to.set(field, from.get(field));
    } else {
      to.clear(field);
    }
  }
  if (violations.length > 0) throw problem("INVALID_ARGUMENT", violations[0]?.description, { violations });
  return after;
}

/** Masks in JSON are camelCase; some clients send that in queries too. */
function snakeCase(path: string): string {
  return path.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
