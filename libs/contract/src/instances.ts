export * from "./gen/bowline/instances/v1/instances_pb.ts";
