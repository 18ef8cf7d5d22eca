/**
 * The admin port: the adapter's way in, on loopback (or published to loopback
 * by a container runtime), behind a secret that lies in the volume.
 *
 *   GET    /healthz            no secret needed: the process works
 *   GET    /status             DataPlaneStatus
 *   PUT    /routes/<id>        an attached document; 200, or 422 {path, message}
 *   DELETE /routes/<id>        200 {removed}
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { isSafeId, readDocument, type DataPlaneStatus } from "../document.ts";
import { answerJson } from "./answers.ts";
import type { Attached } from "./attached.ts";
import { Refusal } from "./refusal.ts";

/** Several times what a spec may have (4 MiB as protobuf) once it is JSON. */
const maxDocumentBytes = 32 * 1024 * 1024;
/** The adapter is near; a slow one is not the adapter. */
const requestTimeoutMs = 30_000;

export function createAdmin(attached: Attached, secret: string, status: () => DataPlaneStatus): Server {
  const expected = digest(`Bearer ${secret}`);
  return createServer({ requestTimeout: requestTimeoutMs, headersTimeout: requestTimeoutMs }, (req, res) => {
    serve(req, res).catch((error: unknown) => {
      if (!res.headersSent) answerJson(res, 500, { message: (error as Error).message });
      else res.destroy();
    });
  });

  async function serve(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const { method, url = "" } = req;
    if (method === "GET" && url === "/healthz") return answerJson(res, 200, {});
    if (!timingSafeEqual(digest(req.headers.authorization ?? ""), expected)) {
      return answerJson(res, 401, { message: "the secret of the volume is needed" }, ["Connection", "close"]);
    }
    if (method === "GET" && url === "/status") return answerJson(res, 200, status());
    const id = /^\/routes\/([^/?]+)$/.exec(url)?.[1];
    if (id === undefined || !isSafeId(id)) return answerJson(res, 404, { message: "no such path" });
    if (method === "DELETE") return answerJson(res, 200, { removed: attached.delete(id) });
    if (method !== "PUT") return answerJson(res, 405, { message: "PUT or DELETE" });
    const text = await readBody(req);
    if (text === undefined) {
      return answerJson(res, 413, { message: `more than ${maxDocumentBytes} bytes` }, ["Connection", "close"]);
    }
    put(id, text, res);
  }

  function put(id: string, text: string, res: ServerResponse): void {
    try {
      const document = readDocument(text);
      if (document.deploymentId !== id) throw new Refusal("deploymentId", "is not the path's");
      attached.put(document);
      answerJson(res, 200, { generation: document.generation });
    } catch (error) {
      const path = error instanceof Refusal ? error.path : "";
      answerJson(res, 422, { path, message: (error as Error).message });
    }
  }
}

async function readBody(req: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of req as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > maxDocumentBytes) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
