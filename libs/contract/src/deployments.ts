export * from "./gen/bowline/deployments/v1/deployment_pb.ts";
export * from "./gen/bowline/deployments/v1/routes_pb.ts";
export * from "./gen/bowline/deployments/v1/deployment_service_pb.ts";
