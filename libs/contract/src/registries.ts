export * from "./gen/bowline/registries/v1/registries_pb.ts";
