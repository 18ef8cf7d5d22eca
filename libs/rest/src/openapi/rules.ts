/** protovalidate's rules as JSON Schema says them. What JSON Schema cannot say is left to the comments. */
import { getOption, hasOption, isFieldSet } from "@bufbuild/protobuf";
import type { DescEnum, DescField, DescMessage, DescOneof } from "@bufbuild/protobuf";
import {
  BytesRulesSchema,
  EnumRulesSchema,
  field as fieldOption,
  Ignore,
  MapRulesSchema,
  oneof as oneofOption,
  RepeatedRulesSchema,
  StringRulesSchema,
} from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";
import type { FieldRules, StringRules } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";

export type Schema = { [keyword: string]: unknown };

/** The rules of a field; undefined where it has none. */
export function rulesOf(field: DescField): FieldRules | undefined {
  return hasOption(field, fieldOption) ? getOption(field, fieldOption) : undefined;
}

/** Keywords for one value. `values` is the enum's where it is one. */
export function keywordsOf(rules: FieldRules | undefined, values?: DescEnum): Schema {
  if (rules === undefined || rules.ignore === Ignore.ALWAYS) return {};
  const { case: kind, value } = rules.type;
  switch (kind) {
    case "string":
      return ofString(value);
    case "bytes": {
      const { maxLen } = BytesRulesSchema.field;
      return isFieldSet(value, maxLen) ? { maxLength: Math.ceil(Number(value.maxLen) / 3) * 4 } : {}; // of base64
    }
    case "enum": {
      if (values === undefined) return {};
      const taken = values.values.filter(
        ({ number }) => (value.in.length === 0 || value.in.includes(number)) && !value.notIn.includes(number),
      );
      if (isFieldSet(value, EnumRulesSchema.field.const)) return { enum: [values.value[value.const]?.name] };
      return taken.length === values.values.length ? {} : { enum: taken.map(({ name }) => name) };
    }
    case "repeated": {
      const { minItems, maxItems, unique } = RepeatedRulesSchema.field;
      return {
        ...(isFieldSet(value, minItems) && { minItems: Number(value.minItems) }),
        ...(isFieldSet(value, maxItems) && { maxItems: Number(value.maxItems) }),
        ...(isFieldSet(value, unique) && { uniqueItems: value.unique }),
      };
    }
    case "map": {
      const { minPairs, maxPairs } = MapRulesSchema.field;
      return {
        ...(isFieldSet(value, minPairs) && { minProperties: Number(value.minPairs) }),
        ...(isFieldSet(value, maxPairs) && { maxProperties: Number(value.maxPairs) }),
      };
    }
    case "int32":
    case "uint32":
    case "sint32":
    case "float":
    case "double":
      return ofNumber(value);
    default:
      return {}; // 64-bit numbers, times and durations are strings in JSON
  }
}

function ofString(rules: StringRules): Schema {
  const { minLen, maxLen, len, pattern } = StringRulesSchema.field;
  const has = (field: (typeof StringRulesSchema.field)[keyof typeof StringRulesSchema.field]): boolean =>
    isFieldSet(rules, field);
  return {
    ...(has(minLen) && { minLength: Number(rules.minLen) }),
    ...(has(maxLen) && { maxLength: Number(rules.maxLen) }),
    ...(has(len) && { minLength: Number(rules.len), maxLength: Number(rules.len) }),
    ...(has(pattern) && { pattern: rules.pattern }),
    ...(rules.in.length > 0 && { enum: rules.in }),
  };
}

type NumberRules = {
  lessThan: { case: "lt" | "lte" | undefined; value?: number };
  greaterThan: { case: "gt" | "gte" | undefined; value?: number };
};

function ofNumber({ lessThan, greaterThan }: NumberRules): Schema {
  return {
    ...(lessThan.case === "lt" && { exclusiveMaximum: lessThan.value }),
    ...(lessThan.case === "lte" && { maximum: lessThan.value }),
    ...(greaterThan.case === "gt" && { exclusiveMinimum: greaterThan.value }),
    ...(greaterThan.case === "gte" && { minimum: greaterThan.value }),
  };
}

/** True where a request without the field is refused: it is required, or its empty value breaks its rules. */
export function isRequired(field: DescField): boolean {
  const rules = rulesOf(field);
  if (rules === undefined || rules.ignore !== Ignore.UNSPECIFIED) return false;
  if (rules.required) return true;
  if (field.fieldKind === "message" || field.oneof !== undefined || hasPresence(field)) return false;
  const { minLength, minItems, minProperties, pattern, minimum, enum: taken } = keywordsOf(rules, field.enum);
  if ([minLength, minItems, minProperties, minimum].some((bound) => typeof bound === "number" && bound > 0))
    return true;
  if (typeof pattern === "string" && !new RegExp(pattern).test("")) return true;
  const empty = field.enum === undefined ? "" : field.enum.values[0]?.name;
  return Array.isArray(taken) && !taken.includes(empty);
}

/** `optional` in proto3: unset is not the empty value. */
function hasPresence(field: DescField): boolean {
  return field.proto.proto3Optional;
}

/** The oneofs of a message of which one member must be set. */
export function requiredOneofs(message: DescMessage): DescOneof[] {
  return message.oneofs.filter((one) => hasOption(one, oneofOption) && getOption(one, oneofOption).required);
}
