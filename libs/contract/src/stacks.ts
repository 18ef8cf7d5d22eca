export * from "./gen/bowline/stacks/v1/rollouts_pb.ts";
export * from "./gen/bowline/stacks/v1/stacks_pb.ts";
