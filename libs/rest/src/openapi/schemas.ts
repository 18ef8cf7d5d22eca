/** Messages and enums of the contract as JSON Schemas, each once below `components`. */
import { ScalarType } from "@bufbuild/protobuf";
import type { DescEnum, DescField, DescMessage } from "@bufbuild/protobuf";
import { comments } from "../gen/comments.ts";
import { isRequired, keywordsOf, requiredOneofs, rulesOf } from "./rules.ts";
import type { Schema } from "./rules.ts";

/** Collects the schemas that are asked for, and what they refer to. */
export type Schemas = {
  /** A reference to the schema of a message. */
  message(message: DescMessage): Schema;
  /** The schema of one field, with its description and bounds. */
  field(field: DescField): Schema;
  /** An object of some fields of a message, not shared. */
  part(message: DescMessage, fields: readonly DescField[]): Schema;
  /** What was asked for so far, by name. */
  components(): Record<string, Schema>;
};

/** What JSON writes for messages of google.protobuf. */
const wellKnown: Record<string, Schema> = {
  "google.protobuf.Timestamp": { type: "string", format: "date-time", examples: ["2026-01-31T12:00:00Z"] },
  "google.protobuf.Duration": { type: "string", pattern: "^-?[0-9]+(\\.[0-9]{1,9})?s$", examples: ["90s"] },
  "google.protobuf.FieldMask": { type: "string", examples: ["displayName,labels"] },
  "google.protobuf.Empty": { type: "object" },
  "google.protobuf.Struct": { type: "object", additionalProperties: true },
  "google.protobuf.Any": { type: "object", additionalProperties: true },
  "google.protobuf.Value": {},
  "google.protobuf.ListValue": { type: "array", items: {} },
};

const uint32: Schema = { type: "integer", minimum: 0, maximum: 2 ** 32 - 1 };
const int32: Schema = { type: "integer", minimum: -(2 ** 31), maximum: 2 ** 31 - 1, format: "int32" };
/** 64 bits are strings in proto3 JSON: they do not fit a JavaScript number. */
const uint64: Schema = { type: "string", pattern: "^[0-9]{1,20}$", format: "uint64" };
const int64: Schema = { type: "string", pattern: "^-?[0-9]{1,19}$", format: "int64" };

const scalars: Record<ScalarType, Schema> = {
  [ScalarType.BOOL]: { type: "boolean" },
  [ScalarType.STRING]: { type: "string" },
  [ScalarType.BYTES]: { type: "string", contentEncoding: "base64" },
  [ScalarType.DOUBLE]: { type: "number" },
  [ScalarType.FLOAT]: { type: "number" },
  [ScalarType.UINT32]: uint32,
  [ScalarType.FIXED32]: uint32,
  [ScalarType.INT32]: int32,
  [ScalarType.SINT32]: int32,
  [ScalarType.SFIXED32]: int32,
  [ScalarType.UINT64]: uint64,
  [ScalarType.FIXED64]: uint64,
  [ScalarType.INT64]: int64,
  [ScalarType.SINT64]: int64,
  [ScalarType.SFIXED64]: int64,
};

export function collectSchemas(): Schemas {
  const byType = new Map<string, string>();
  const components: Record<string, Schema> = {};

  /** The short name, with the package's noun where two packages have the same. */
  function nameOf(desc: DescMessage | DescEnum): string {
    const known = byType.get(desc.typeName);
    if (known !== undefined) return known;
    const short = desc.typeName.slice(desc.file.proto.package.length + 1);
    const noun = desc.file.proto.package.split(".").at(-2) ?? "";
    const name = Object.hasOwn(components, short) ? `${noun}.${short}` : short;
    if (Object.hasOwn(components, name)) throw new Error(`two schemas are named ${name}`);
    byType.set(desc.typeName, name);
    components[name] = {}; // taken, so that a message that contains itself ends here
    return name;
  }

  function reference(desc: DescMessage | DescEnum, make: () => Schema): Schema {
    if (!byType.has(desc.typeName)) {
      const name = nameOf(desc);
      components[name] = make();
    }
    return { $ref: `#/components/schemas/${nameOf(desc)}` };
  }

  function message(desc: DescMessage): Schema {
    const known = wellKnown[desc.typeName];
    return known ?? reference(desc, () => ({ ...described(desc.typeName), ...part(desc, desc.fields) }));
  }

  function part(desc: DescMessage, fields: readonly DescField[]): Schema {
    const required = fields.filter(isRequired).map(({ jsonName }) => jsonName);
    const oneofs = requiredOneofs(desc).map(({ fields: members }) => ({
      oneOf: members.map(({ jsonName }) => ({ required: [jsonName] })),
    }));
    return {
      type: "object",
      properties: Object.fromEntries(fields.map((one) => [one.jsonName, field(one)])),
      ...(required.length > 0 && { required }),
      ...(oneofs.length > 0 && { allOf: oneofs }),
    };
  }

  function field(one: DescField): Schema {
    const description = commentOf(one);
    return {
      ...value(one),
      ...described(description.name),
      ...(/\bOutput only\b/.test(description.text) && { readOnly: true }),
      ...(one.proto.options?.deprecated === true && { deprecated: true }),
    };
  }

  function value(one: DescField): Schema {
    const rules = rulesOf(one);
    if (one.fieldKind === "list") {
      const items = rules?.type.case === "repeated" ? rules.type.value.items : undefined;
      return { type: "array", items: { ...element(one), ...keywordsOf(items, one.enum) }, ...keywordsOf(rules) };
    }
    if (one.fieldKind === "map") {
      const { keys, values } = rules?.type.case === "map" ? rules.type.value : {};
      const names = keywordsOf(keys);
      return {
        type: "object",
        additionalProperties: { ...element(one), ...keywordsOf(values, one.enum) },
        ...(Object.keys(names).length > 0 && { propertyNames: names }),
        ...keywordsOf(rules),
      };
    }
    return { ...element(one), ...keywordsOf(rules, one.enum) };
  }

  function element(one: DescField): Schema {
    if (one.message !== undefined) return message(one.message);
    if (one.enum !== undefined) return enumeration(one.enum);
    return scalars[one.scalar ?? ScalarType.STRING];
  }

  function enumeration(desc: DescEnum): Schema {
    return reference(desc, () => {
      const lines = desc.values.map(({ name }) => {
        const text = comments[`${desc.typeName}.${name}`];
        return `- \`${name}\`${text === undefined ? "" : `: ${text}`}`;
      });
      const about = comments[desc.typeName];
      return {
        type: "string",
        enum: desc.values.map(({ name }) => name),
        description: [...(about === undefined ? [] : [about]), lines.join("\n")].join("\n\n"),
      };
    });
  }

  return { message, field, part, components: () => components };
}

function commentOf(field: DescField): { name: string; text: string } {
  const name = `${field.parent.typeName}.${field.name}`;
  return { name, text: comments[name] ?? "" };
}

/** The comment above what has this full name, as a keyword. */
export function described(name: string): Schema {
  const text = comments[name];
  return text === undefined ? {} : { description: text };
}
