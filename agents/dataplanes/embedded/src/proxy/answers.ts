/** What the proxy itself answers: a status, a stable reason and a sentence, as JSON. */
import type { ServerResponse } from "node:http";

/** Every reason of the proxy, its status and its code (as Connect spells them). */
export const answers = {
  BAD_TARGET: { status: 400, code: "invalid_argument", message: "the path or query cannot be read" },
  BAD_HOST: { status: 400, code: "invalid_argument", message: "the Host header is missing, doubled or no host" },
  METHOD_REFUSED: { status: 405, code: "unimplemented", message: "this method is not forwarded" },
  REQUEST_BODY_STALLED: { status: 408, code: "deadline_exceeded", message: "the body did not arrive" },
  ROUTE_NOT_FOUND: { status: 404, code: "not_found", message: "no route matches this request" },
  NOT_SERVED: { status: 404, code: "not_found", message: "nothing of this id is served here" },
  NO_BACKEND: { status: 500, code: "failed_precondition", message: "no backend of the route has a weight" },
  INTERNAL: { status: 500, code: "internal", message: "a defect of the proxy; its log has more" },
  BACKEND_BROKEN: { status: 502, code: "unavailable", message: "the backend broke off or sent what is not HTTP" },
  PRIVATE_BACKEND: { status: 502, code: "permission_denied", message: "the backend has a private address" },
  BACKEND_UNREACHABLE: { status: 503, code: "unavailable", message: "the backend takes no connection" },
  BACKEND_TIMEOUT: { status: 504, code: "deadline_exceeded", message: "the backend did not answer in time" },
  REQUEST_TIMEOUT: { status: 504, code: "deadline_exceeded", message: "the request took longer than the route allows" },
  LOOP_DETECTED: { status: 508, code: "failed_precondition", message: "the request came back to this proxy" },
} as const;

export type AnswerReason = keyof typeof answers;

/** Ends the response; only where no header was sent yet. */
export function answer(res: ServerResponse, reason: AnswerReason, extra: readonly string[] = []): void {
  const { status, code, message } = answers[reason];
  answerJson(res, status, { code, message, reason }, extra);
}

export function answerJson(res: ServerResponse, status: number, body: object, extra: readonly string[] = []): void {
  const text = JSON.stringify(body);
  res.writeHead(status, [
    "Content-Type",
    "application/json",
    "Content-Length",
    String(Buffer.byteLength(text)),
    "Cache-Control",
    "no-store",
    ...extra,
  ]);
  res.end(text);
}
