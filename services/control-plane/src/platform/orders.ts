/** `order_by` of lists: one field and an optional ` desc`. */
import { problem } from "@bowline/kernel";

export interface Order<Field extends string> {
  field: Field;
  descending: boolean;
}

/** Reads `order_by`; empty is the first of `fields`, ascending. Throws INVALID_ARGUMENT that names the fields. */
export function orderOf<const Field extends string>(
  orderBy: string,
  fields: readonly [Field, ...Field[]],
): Order<Field> {
  if (orderBy.trim() === "") return { field: fields[0], descending: false };
  const [name, direction = "asc", ...rest] = orderBy.trim().split(/\s+/);
  const field = fields.find((candidate) => candidate === name);
  if (field === undefined || rest.length > 0 || !/^(asc|desc)$/i.test(direction)) {
    const description = `order_by is one of ${fields.join(", ")}, each with an optional " desc".`;
    throw problem("INVALID_ARGUMENT", description, { violations: [{ field: "order_by", description }] });
  }
  return { field, descending: direction.toLowerCase() === "desc" };
}
