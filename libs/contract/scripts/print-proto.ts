/**
 * Prints a file descriptor as .proto source, for protos that npm carries only
 * as a descriptor (buf/validate). Structure alone: messages, enums, fields,
 * extensions. Options are left out, because what reads the result (buf, grpc
 * loaders) needs names, numbers and types, and the validator reads its rules
 * from its own generated code.
 */
import { isFieldSet } from "@bufbuild/protobuf";
import {
  FieldDescriptorProtoSchema,
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
  type DescriptorProto,
  type EnumDescriptorProto,
  type FieldDescriptorProto,
  type FileDescriptorProto,
} from "@bufbuild/protobuf/wkt";

const scalars: Partial<Record<Type, string>> = {
  [Type.DOUBLE]: "double",
  [Type.FLOAT]: "float",
  [Type.INT64]: "int64",
  [Type.UINT64]: "uint64",
  [Type.INT32]: "int32",
  [Type.FIXED64]: "fixed64",
  [Type.FIXED32]: "fixed32",
  [Type.BOOL]: "bool",
  [Type.STRING]: "string",
  [Type.BYTES]: "bytes",
  [Type.UINT32]: "uint32",
  [Type.SFIXED32]: "sfixed32",
  [Type.SFIXED64]: "sfixed64",
  [Type.SINT32]: "sint32",
  [Type.SINT64]: "sint64",
};

/** The source of `file`. Throws on what it does not print: groups, and editions. */
export function printProto(file: FileDescriptorProto): string {
  const syntax = file.syntax === "" ? "proto2" : file.syntax;
  if (syntax === "editions") throw new Error(`${file.name}: editions are not printed`);
  const lines = [
    `syntax = "${syntax}";`,
    "",
    `package ${file.package};`,
    "",
    ...file.dependency.map((path) => `import "${path}";`),
    "",
    ...extensions(file.extension, syntax),
    ...file.enumType.flatMap(enumLines),
    ...file.messageType.flatMap((message) => messageLines(message, syntax)),
  ];
  return `${lines.join("\n")}\n`;
}

function messageLines(message: DescriptorProto, syntax: string): string[] {
  const entries = new Map(
    message.nestedType.filter((nested) => nested.options?.mapEntry).map((nested) => [nested.name, nested]),
  );
  const body = [
    ...message.nestedType
      .filter((nested) => !entries.has(nested.name))
      .flatMap((nested) => messageLines(nested, syntax)),
    ...message.enumType.flatMap(enumLines),
    ...message.field.filter((field) => !inOneof(field)).map((field) => fieldLine(field, syntax, entries)),
    ...message.oneofDecl.flatMap((oneof, index) => {
      const members = message.field.filter((field) => inOneof(field) && field.oneofIndex === index);
      if (members.length === 0) return []; // the synthetic oneof of a proto3 optional field
      return [
        `oneof ${oneof.name} {`,
        ...indent(members.map((field) => `${typeName(field)} ${field.name} = ${field.number};`)),
        "}",
      ];
    }),
    ...message.extensionRange.map(
      (range) => `extensions ${numberRange(range.start ?? 0, (range.end ?? 1) - 1, 536_870_911)};`,
    ),
    ...message.reservedRange.map(
      (range) => `reserved ${numberRange(range.start ?? 0, (range.end ?? 1) - 1, 536_870_911)};`,
    ),
    ...message.reservedName.map((name) => `reserved "${name}";`),
    ...extensions(message.extension, syntax),
  ];
  return [`message ${message.name} {`, ...indent(body), "}"];
}

/** An unset field reads as its default (index 0) in this runtime, so it is asked whether it is set. */
function inOneof(field: FieldDescriptorProto): boolean {
  return isFieldSet(field, FieldDescriptorProtoSchema.field.oneofIndex) && !field.proto3Optional;
}

function enumLines(declared: EnumDescriptorProto): string[] {
  const body = [
    ...(declared.options?.allowAlias ? ["option allow_alias = true;"] : []),
    ...declared.value.map((value) => `${value.name} = ${value.number};`),
    ...declared.reservedRange.map(
      (range) => `reserved ${numberRange(range.start ?? 0, range.end ?? 0, 2_147_483_647)};`,
    ),
    ...declared.reservedName.map((name) => `reserved "${name}";`),
  ];
  return [`enum ${declared.name} {`, ...indent(body), "}"];
}

function extensions(fields: readonly FieldDescriptorProto[], syntax: string): string[] {
  const byExtendee = Map.groupBy(fields, (field) => field.extendee);
  return [...byExtendee].flatMap(([extendee, members]) => [
    `extend ${extendee} {`,
    ...indent(members.map((field) => fieldLine(field, syntax, new Map()))),
    "}",
  ]);
}

function fieldLine(field: FieldDescriptorProto, syntax: string, entries: ReadonlyMap<string, DescriptorProto>): string {
  const entry = field.type === Type.MESSAGE ? entries.get(field.typeName.split(".").at(-1) ?? "") : undefined;
  const [key, value] = entry?.field ?? [];
  if (key !== undefined && value !== undefined) {
    return `map<${typeName(key)}, ${typeName(value)}> ${field.name} = ${field.number};`;
  }
  return `${label(field, syntax)}${typeName(field)} ${field.name} = ${field.number};`;
}

function label(field: FieldDescriptorProto, syntax: string): string {
  if (field.label === Label.REPEATED) return "repeated ";
  if (field.label === Label.REQUIRED) return "required ";
  return syntax === "proto2" || field.proto3Optional ? "optional " : "";
}

function typeName(field: FieldDescriptorProto): string {
  if (field.type === Type.MESSAGE || field.type === Type.ENUM) return field.typeName;
  const scalar = scalars[field.type];
  if (scalar === undefined) throw new Error(`${field.name}: type ${field.type} is not printed`);
  return scalar;
}

function numberRange(first: number, last: number, largest: number): string {
  if (first === last) return `${first}`;
  return `${first} to ${last >= largest ? "max" : last}`;
}

function indent(lines: readonly string[]): string[] {
  return lines.map((line) => `  ${line}`);
}
