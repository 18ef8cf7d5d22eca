/** google.rpc error details, as the API's errors carry them. */
export {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
  type ErrorInfo,
  type BadRequest,
} from "./gen/google/rpc/error_details_pb.ts";
