export * from "./gen/bowline/agent/v1/agent_pb.ts";
export * from "./gen/bowline/agent/v1/messages_pb.ts";
export * from "./gen/bowline/agent/v1/polling_pb.ts";
export * from "./gen/bowline/agent/v1/tunnels_pb.ts";
