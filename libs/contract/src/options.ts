export * from "./gen/bowline/options/v1/options_pb.ts";
