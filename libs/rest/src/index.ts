/**
 * REST and OpenAPI, from the descriptors of the contract and their `google.api.http` bindings.
 *
 *   rest.ts       one request from path to answer; call.ts its head, body and answers
 *   routes.ts     bindings and how a path finds one; template.ts path templates
 *   request.ts    path, query, body and headers as one message; query.ts, json-text.ts
 *   wrong-fields.ts  which field of a request is wrong
 *   failures.ts   failures as JSON         streams.ts  NDJSON and server-sent events
 *   limits.ts     every bound, with its reason
 *   openapi/      the OpenAPI 3.1 document  gen/  comments of the protos
 */
export type { RestRequest, RestResponse } from "./call.ts";
export { failureOf } from "./failures.ts";
export type { Failure, FailureBody } from "./failures.ts";
export { restLimits } from "./limits.ts";
export type { RestLimits } from "./limits.ts";
export type { OpenApiInfo } from "./openapi/document.ts";
export { createRest } from "./rest.ts";
export type { Rest, RestOptions } from "./rest.ts";
