export * from "./gen/bowline/agents/v1/agents_pb.ts";
export * from "./gen/bowline/agents/v1/foreign_containers_pb.ts";
