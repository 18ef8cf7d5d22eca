/**
 * A real nginx in front of a server, as networks have them: one that speaks
 * HTTP/1.1 only, one that ends TLS, speaks HTTP/2 and HTTP/1.1, and buffers
 * whole requests and answers, or one that is set up for streams as
 * docs/operations/proxies.md says.
 */
import { connect } from "node:net";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Certificate } from "./certificates.ts";
import { findProgram } from "./debian-programs.ts";
import { temporaryFolder } from "./folders.ts";
import { freePort } from "./ports.ts";
import { type ProcessEnd, startProcess } from "./processes.ts";
import { until } from "./until.ts";

export interface NginxOptions {
  /** Origins of the servers behind it, which get requests by turns; clear text. */
  upstreams: readonly string[];
  /** With it: TLS, HTTP/2 and HTTP/1.1, buffering. Without: clear text and HTTP/1.1 only. */
  certificate?: Certificate;
  /** As docs/operations/proxies.md says; with a certificate. */
  streams?: boolean;
  /** Default: any free one. */
  port?: number;
}

export interface Nginx {
  url: string;
  port: number;
  /** Ends it; what it held is cut. */
  stop(): Promise<ProcessEnd>;
}

export async function startNginx(options: NginxOptions): Promise<Nginx> {
  const found = await findProgram({
    name: "nginx",
    path: "usr/sbin/nginx",
    packages: ["nginx", "libpcre2-8-0", "libssl3"],
    missing:
      "tests of polling need an nginx: install one (apt-get install nginx-light), or let Debian's package be fetched " +
      "(apt-get has to reach a mirror)",
  });
  const port = options.port ?? (await freePort());
  const folder = temporaryFolder();
  const configuration = join(folder, "nginx.conf");
  writeFileSync(configuration, configurationOf(options, port, folder));
  const running = startProcess({
    command: [found.program, "-p", folder, "-e", "stderr", "-c", configuration],
    env: found.env,
  });
  let died: ProcessEnd | undefined;
  void running.ended.then((end) => (died = end));
  await until(
    () => {
      if (died !== undefined) throw new Error(`nginx ended by itself:\n${running.output()}`);
      return answers(port);
    },
    { what: "nginx to listen" },
  );
  return {
    url: `${options.certificate === undefined ? "http" : "https"}://127.0.0.1:${port}`,
    port,
    stop: () => running.end(),
  };
}

function configurationOf({ upstreams, certificate, streams }: NginxOptions, port: number, folder: string): string {
  const files = certificate?.files();
  const listen =
    files === undefined
      ? `listen 127.0.0.1:${port};`
      : `listen 127.0.0.1:${port} ssl http2; ssl_certificate ${files.cert}; ssl_certificate_key ${files.key};`;
  const folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
    (kind) => `${kind}_temp_path ${join(folder, kind)};`,
  );
  return `
daemon off;
master_process off;
pid ${join(folder, "nginx.pid")};
error_log stderr warn;
events { worker_connections 256; }
http {
  access_log off;
  ${folders.join("\n  ")}
  upstream servers {
    ${upstreams.map((url) => `server ${new URL(url).host};`).join("\n    ")}
  }
  server {
    ${listen}
    location / {
      ${streams === true ? streaming : buffering}
    }
  }
}
`;
}

const buffering = `
      proxy_pass http://servers;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Connection "";
      proxy_buffering on;
      proxy_request_buffering on;
      client_max_body_size 8m;`;

const streaming = `
      grpc_pass grpc://servers;
      grpc_set_header Host $http_host;
      grpc_read_timeout 120s;
      grpc_send_timeout 120s;
      client_body_timeout 120s;
      client_max_body_size 0;`;

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}
