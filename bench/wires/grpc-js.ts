/** The server of @grpc/grpc-js, with protobuf-es for the messages as all others have it. */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  type AgentMessage,
  AgentMessageSchema,
  type ServerMessage,
  ServerMessageSchema,
} from "@bowline/contract/agent";
import { Server, ServerCredentials, type ServerDuplexStream } from "@grpc/grpc-js";
import { answerTo } from "./answers.ts";
import type { WireOptions, WireServer } from "./servers.ts";

export async function grpcJs({ tls, port }: WireOptions): Promise<WireServer> {
  const server = new Server();
  server.addService(
    {
      connect: {
        ...{ path: "/bowline.agent.v1.AgentService/Connect", requestStream: true, responseStream: true },
        requestSerialize: (message: AgentMessage) => Buffer.from(toBinary(AgentMessageSchema, message)),
        requestDeserialize: (bytes: Buffer) => fromBinary(AgentMessageSchema, bytes),
        responseSerialize: (message: ServerMessage) => Buffer.from(toBinary(ServerMessageSchema, message)),
        responseDeserialize: (bytes: Buffer) => fromBinary(ServerMessageSchema, bytes),
      },
    },
    {
      connect(call: ServerDuplexStream<AgentMessage, ServerMessage>) {
        call.on("data", (message: AgentMessage) => {
          const answer = answerTo(message);
          if (answer !== undefined) call.write(answer);
        });
        call.on("error", () => undefined); // the caller is gone
        call.on("end", () => call.end());
      },
    },
  );
  const credentials =
    tls === undefined
      ? ServerCredentials.createInsecure()
      : ServerCredentials.createSsl(null, [{ cert_chain: Buffer.from(tls.cert), private_key: Buffer.from(tls.key) }]);
  const bound = await new Promise<number>((resolve, reject) =>
    server.bindAsync(`127.0.0.1:${port}`, credentials, (error, at) => (error === null ? resolve(at) : reject(error))),
  );
  return {
    url: `${tls === undefined ? "http" : "https"}://127.0.0.1:${bound}`,
    close: () => server.forceShutdown(),
  };
}
