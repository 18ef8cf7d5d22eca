/**
 * Makes what an agent says fit into PostgreSQL: text has no NUL there, and
 * integers have a sign. Reports of many agents share a commit, so what one of
 * them says must not fail the others; and a result whose message quotes a
 * program's output is recorded without its NULs rather than never.
 */
const largestInteger = 2_147_483_647;
const largestBigint = 9_223_372_036_854_775_807n;

/** Changes the message in place. Its depth and size are bounded by its schema and by the stream's limit. */
export function storable<Message extends object>(message: Message): Message {
  const fields = message as Record<string, unknown>;
  for (const name of Object.keys(fields)) {
    const value = fields[name];
    if (typeof value === "string") {
      if (value.includes("\0")) fields[name] = value.replaceAll("\0", "\u{fffd}");
    } else if (typeof value === "number") {
      if (value > largestInteger) fields[name] = largestInteger;
    } else if (typeof value === "bigint") {
      if (value > largestBigint) fields[name] = largestBigint;
    } else if (typeof value === "object" && value !== null && !(value instanceof Uint8Array)) storable(value);
  }
  return message;
}
