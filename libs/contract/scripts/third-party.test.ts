import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { fromBinary } from "@bufbuild/protobuf";
import { type DescriptorProto, type FieldDescriptorProto, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { file_buf_validate_validate } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { writeThirdPartyProtos } from "./third-party.ts";

const run = promisify(execFile);
const buf = resolve(import.meta.dirname, "../../../node_modules/.bin/buf");

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "bowline-third-party-"));
  writeThirdPartyProtos(folder);
});

afterAll(() => rm(folder, { recursive: true, force: true }));

test("the third-party protos compile, offline, and buf/validate has the structure it was printed from", async () => {
  const image = join(folder, "image.binpb");
  await run(buf, ["build", ".", "--as-file-descriptor-set", "-o", image], { cwd: folder, timeout: 60_000 });
  const { file: files } = fromBinary(FileDescriptorSetSchema, await readFile(image));
  expect(files.map(({ name }) => name)).toEqual(
    expect.arrayContaining(["google/api/http.proto", "google/rpc/status.proto", "grpc/health/v1/health.proto"]),
  );

  const printed = files.find(({ name }) => name === "buf/validate/validate.proto");
  const original = file_buf_validate_validate.proto;
  expect(printed?.extension.map(fieldShape)).toEqual(original.extension.map(fieldShape));
  expect(printed?.enumType.map(({ name, value }) => [name, value.map((one) => [one.name, one.number])])).toEqual(
    original.enumType.map(({ name, value }) => [name, value.map((one) => [one.name, one.number])]),
  );
  expect(printed?.messageType.map(messageShape)).toEqual(original.messageType.map(messageShape));
});

test("what is already right is not written again", async () => {
  const path = join(folder, "google/api/http.proto");
  const before = await stat(path);
  writeThirdPartyProtos(folder);
  expect((await stat(path)).ino).toBe(before.ino);
});

function fieldShape(field: FieldDescriptorProto): unknown[] {
  return [field.name, field.number, field.type, field.typeName, field.label, field.extendee];
}

function messageShape(message: DescriptorProto): unknown {
  const oneofs = message.oneofDecl.map(({ name }, index) => [
    name,
    message.field.filter((field) => Object.hasOwn(field, "oneofIndex") && field.oneofIndex === index).map(fieldShape),
  ]);
  const inNumberOrder = message.field.toSorted((a, b) => a.number - b.number).map(fieldShape);
  const ranges = message.extensionRange.map(({ start, end }) => [start, end]);
  return [message.name, inNumberOrder, oneofs, ranges, message.nestedType.map(messageShape)];
}
