export * from "./gen/bowline/secrets/v1/secrets_pb.ts";
