export * from "./gen/bowline/agents/v1/agents_pb.ts";
