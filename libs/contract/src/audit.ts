export * from "./gen/bowline/audit/v1/audit_pb.ts";
