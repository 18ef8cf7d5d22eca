/** node:http2, gRPC's and Connect's framing by hand, protobuf-es. Nothing is limited, checked or kept. */
import { createSecureServer, createServer, type ServerHttp2Stream, type IncomingHttpHeaders } from "node:http2";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { AgentMessageSchema, ServerMessageSchema } from "@bowline/contract/agent";
import { framed, unframed } from "../load/wire.ts";
import { answerTo } from "./answers.ts";
import { listening, type WireOptions, type WireServer } from "./servers.ts";

export function bare({ tls, port }: WireOptions): Promise<WireServer> {
  const server = tls === undefined ? createServer() : createSecureServer(tls);
  server.on("stream", (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
    const type = headers["content-type"] ?? "";
    const grpc = type.startsWith("application/grpc");
    stream.respond({ ":status": 200, "content-type": type }, { waitForTrailers: grpc });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
    stream.on("error", () => undefined); // the caller is gone
    stream.on(
      "data",
      unframed((bytes) => {
        const answer = answerTo(fromBinary(AgentMessageSchema, bytes));
        if (answer !== undefined) stream.write(framed(toBinary(ServerMessageSchema, answer)));
      }),
    );
    stream.on("end", () => stream.end());
  });
  return listening(server, tls === undefined ? "http" : "https", port);
}
