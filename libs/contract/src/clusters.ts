export * from "./gen/bowline/clusters/v1/clusters_pb.ts";
export * from "./gen/bowline/clusters/v1/registration_tokens_pb.ts";
