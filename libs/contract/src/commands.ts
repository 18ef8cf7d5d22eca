export * from "./gen/bowline/commands/v1/commands_pb.ts";
