/** gRPC server reflection (v1) and health (v1), from the descriptors of the contract. */
import { create, type DescFile, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import {
  Health,
  HealthCheckResponse_ServingStatus,
  HealthCheckResponseSchema,
  type ServerReflectionRequest,
  type ServerReflectionResponse,
  ServerReflectionResponseSchema,
  ServerReflection,
} from "@bowline/contract/grpc";
import { services } from "@bowline/contract";

/** Services that need no credential: they tell what /openapi.json and /ready tell. */
export const openServices: ReadonlySet<string> = new Set([Health.typeName, ServerReflection.typeName]);

export function registerReflection(router: ConnectRouter): void {
  const files = new Map<string, DescFile>();
  const collect = (file: DescFile): void => {
    if (files.has(file.name)) return;
    files.set(file.name, file);
    for (const dependency of file.dependencies) collect(dependency);
  };
  const shown = [...services, Health, ServerReflection];
  for (const service of shown) collect(service.file);
  const bySymbol = new Map<string, DescFile>();
  for (const file of files.values()) {
    const add = (name: string): unknown => bySymbol.set(name, file);
    for (const found of [...file.enums, ...file.messages, ...file.extensions]) add(found.typeName);
    for (const service of file.services) {
      add(service.typeName);
      for (const method of service.methods) add(`${service.typeName}.${method.name}`);
    }
  }

  router.service(ServerReflection, {
    serverReflectionInfo: async function* (requests) {
      for await (const request of requests) {
        yield create(ServerReflectionResponseSchema, {
          validHost: request.host,
          originalRequest: request,
          messageResponse: answer(request),
        });
      }
    },
  });

  function answer(request: ServerReflectionRequest): ServerReflectionResponse["messageResponse"] {
    const { messageRequest } = request;
    switch (messageRequest.case) {
      case "listServices": {
        const service = shown.map(({ typeName }) => ({
          $typeName: "grpc.reflection.v1.ServiceResponse" as const,
          name: typeName,
        }));
        return {
          case: "listServicesResponse",
          value: { $typeName: "grpc.reflection.v1.ListServiceResponse", service },
        };
      }
      case "fileByFilename":
        return descriptors(files.get(withoutEnding(messageRequest.value)));
      case "fileContainingSymbol":
        return descriptors(
          bySymbol.get(messageRequest.value) ?? bySymbol.get(messageRequest.value.replace(/\.[^.]+$/, "")),
        );
      default:
        return failure(Code.Unimplemented, "not offered");
    }
  }
}

/** The file with all that it needs, dependencies first. */
function descriptors(file: DescFile | undefined): ServerReflectionResponse["messageResponse"] {
  if (file === undefined) return failure(Code.NotFound, "not found");
  const inOrder = new Set<DescFile>();
  const visit = (one: DescFile): void => {
    if (inOrder.has(one)) return;
    for (const dependency of one.dependencies) visit(dependency);
    inOrder.add(one);
  };
  visit(file);
  return {
    case: "fileDescriptorResponse",
    value: {
      $typeName: "grpc.reflection.v1.FileDescriptorResponse",
      fileDescriptorProto: [...inOrder].toReversed().map(({ proto }) => toBinary(FileDescriptorProtoSchema, proto)),
    },
  };
}

function failure(code: Code, message: string): ServerReflectionResponse["messageResponse"] {
  return {
    case: "errorResponse",
    value: { $typeName: "grpc.reflection.v1.ErrorResponse", errorCode: code, errorMessage: message },
  };
}

function withoutEnding(name: string): string {
  return name.replace(/\.proto$/, "");
}

/** gRPC health: what /ready says. */
export function registerHealth(router: ConnectRouter, ready: () => Promise<boolean>): void {
  const known = new Set(["", ...services.map((service) => service.typeName)]);
  router.service(Health, {
    check: async (request) => {
      if (!known.has(request.service)) throw new ConnectError(`unknown service ${request.service}`, Code.NotFound);
      const status = (await ready())
        ? HealthCheckResponse_ServingStatus.SERVING
        : HealthCheckResponse_ServingStatus.NOT_SERVING;
      return create(HealthCheckResponseSchema, { status });
    },
  });
}
