export * from "./gen/bowline/products/v1/api_services_pb.ts";
export * from "./gen/bowline/products/v1/gateways_pb.ts";
export * from "./gen/bowline/products/v1/products_pb.ts";
export * from "./gen/bowline/products/v1/product_publishes_pb.ts";
