export * from "./gen/bowline/installation/v1/installation_pb.ts";
