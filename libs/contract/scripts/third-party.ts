/**
 * Where the protos of others come from, without a network: npm packages that
 * carry them. `npm run proto:third-party` fills the ignored .protos/ with them;
 * buf compiles against that folder, and `npm run proto:export` hands it on.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { file_buf_validate_validate } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";
import { printProto } from "./print-proto.ts";

const require = createRequire(import.meta.url);

/** A package's root, even where its `exports` hide package.json: found by walking up from its main file. */
function packageRoot(name: string): string {
  let folder = dirname(require.resolve(name));
  while (!folder.endsWith(join("node_modules", name))) {
    if (folder === dirname(folder)) throw new Error(`no folder of package ${name} above its main file`);
    folder = dirname(folder);
  }
  return folder;
}

/** The path that an `import` in a proto names, and the file in an npm package that carries it. */
const carried = {
  "google/api/annotations.proto": ["protobufjs", "google/api/annotations.proto"],
  "google/api/http.proto": ["protobufjs", "google/api/http.proto"],
  "google/rpc/code.proto": ["google-gax", "build/protos/google/rpc/code.proto"],
  "google/rpc/error_details.proto": ["google-gax", "build/protos/google/rpc/error_details.proto"],
  "google/rpc/status.proto": ["google-gax", "build/protos/google/rpc/status.proto"],
  "grpc/health/v1/health.proto": ["grpc-health-check", "proto/health/v1/health.proto"],
  "grpc/reflection/v1/reflection.proto": ["@grpc/reflection", "build/proto/grpc/reflection/v1/reflection.proto"],
} as const satisfies Record<string, readonly [string, string]>;

/** Writes every third-party proto below `folder`. A file that is already right is left alone, so builds may run side by side. */
export function writeThirdPartyProtos(folder: string): void {
  for (const [path, [name, file]] of Object.entries(carried)) {
    write(join(folder, path), readFileSync(join(packageRoot(name), file), "utf8"));
  }
  write(
    join(folder, "buf/validate/validate.proto"),
    `// Printed from the descriptor inside @bufbuild/protovalidate: structure without options.\n${printProto(file_buf_validate_validate.proto)}`,
  );
}

function write(path: string, text: string): void {
  if (textOf(path) === text) return;
  mkdirSync(dirname(path), { recursive: true });
  const next = `${path}.${process.pid}.tmp`;
  writeFileSync(next, text);
  renameSync(next, path);
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined; // not there yet, or not readable: writing it tells
  }
}
