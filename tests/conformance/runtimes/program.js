/**
 * The program that the conformance suite runs as a workload, everywhere: plain
 * JavaScript, so that any node can run it.
 *
 *   program.js <token> serve              answers on PORT, does what it is told by POST
 *   program.js <token> stubborn           the same, deaf to SIGTERM
 *   program.js <token> exit <code> [text] writes the text and ends
 *   program.js <token> job <file> <code>  appends a line to the file and ends
 *   program.js <token> run <file>         appends a line to the file and stays
 *   program.js <token> sleep              stays
 *   program.js <token> echo <code>        repeats stdin, then says END and VALUE on stderr, and ends
 *   program.js <token> terminal           tells its terminal's size, now and when it changes
 *   program.js <token> flood <bytes>      writes as much and ends
 *
 * The token only shows whose a process is.
 */
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { appendFileSync, existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";

const [token, mode, ...args] = process.argv.slice(2);
const startedAt = Date.now();
/** Its number would not tell: in a container it is always the same. */
const run = randomUUID();

const forever = () => setInterval(() => {}, 1 << 30);

/** A child of our own kind; `how` tells how far it runs away. */
function breed(how) {
  const detached = how === "session";
  const child = spawn(process.execPath, [process.argv[1], token, "sleep"], {
    detached,
    stdio: "ignore",
    env: how === "bare" ? {} : process.env,
  });
  child.unref();
  return child.pid;
}

const orders = {
  sick: () => ((healthy = false), "sick"),
  well: () => ((healthy = true), "well"),
  exit: (url) => setTimeout(() => process.exit(Number(url.searchParams.get("code"))), 5) && "going",
  breed: (url) => String(breed(url.searchParams.get("how"))),
  write: (url) => {
    process.stdout.write(url.searchParams.get("text").repeat(Number(url.searchParams.get("times") ?? 1)));
    return "written";
  },
  store: (url) => (writeFileSync(url.searchParams.get("file"), url.searchParams.get("text")), "stored"),
  mode: (url) => String(statSync(url.searchParams.get("file")).mode),
  load: (url) => {
    const file = url.searchParams.get("file");
    return existsSync(file) ? readFileSync(file, "utf8") : "";
  },
};

let healthy = true;

function serve() {
  const server = createServer((request, response) => {
    const url = new URL(request.url, "http://localhost");
    const name = url.pathname.slice(1);
    if (name === "health") return response.writeHead(healthy ? 200 : 503).end();
    if (request.method === "POST" && name in orders) return response.end(orders[name](url));
    response.setHeader("content-type", "application/json");
    response.end(
      JSON.stringify({
        run,
        startedAt,
        env: process.env,
        args: process.argv.slice(2),
      }),
    );
  });
  server.listen(Number(process.env.PORT), () => console.log(`listening ${process.pid}`));
}

// In a container it is the first process, which the kernel shields from signals that it does not handle.
process.on("SIGTERM", () => mode !== "stubborn" && process.exit(mode === "serve" ? 0 : 143));
process.on("SIGINT", () => process.exit(130));

switch (mode) {
  case "serve":
  case "stubborn":
    serve();
    break;
  case "exit":
    process.stdout.write(args[1] ?? "");
    process.exit(Number(args[0]));
    break;
  case "job":
    appendFileSync(args[0], `${startedAt}\n`);
    process.exit(Number(args[1]));
    break;
  case "run":
    appendFileSync(args[0], `${startedAt}\n`);
    forever();
    break;
  case "echo":
    process.stdin.pipe(process.stdout);
    process.stdin.on("end", () => {
      console.error(`END ${process.env.VALUE}`);
      process.exitCode = Number(args[0]);
    });
    break;
  case "terminal": {
    const tell = () => console.log(`${process.stdout.isTTY} ${process.stdout.columns}x${process.stdout.rows}`);
    process.stdout.on("resize", tell);
    tell();
    process.stdin.on("data", () => process.exit(9));
    break;
  }
  case "flood": {
    const chunk = Buffer.alloc(64 * 1024, ".");
    for (let written = 0; written < Number(args[0]); written += chunk.length)
      if (!process.stdout.write(chunk)) await new Promise((resolve) => process.stdout.once("drain", resolve));
    break;
  }
  case "sleep":
    forever();
    break;
  default:
    throw new Error(`no such mode: ${mode}`);
}
