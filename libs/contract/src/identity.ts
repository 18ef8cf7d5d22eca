export * from "./gen/bowline/identity/v1/identity_pb.ts";
