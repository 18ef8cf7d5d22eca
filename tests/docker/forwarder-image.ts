/**
 * An image with what forwarders need of the agent's, without its build: Node,
 * the sources, and in the place of npm's links (which an image of files cannot
 * have) modules that lead there.
 */
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder, type TestDocker } from "@bowline/testing";
import { root } from "./base-images.ts";

export async function importForwarder(docker: TestDocker, name: string): Promise<void> {
  const written = (content: string): string => {
    const file = join(temporaryFolder(), "file");
    writeFileSync(file, content);
    return file;
  };
  const leads = (workspace: string, entry: string, to: string): Record<string, string> => ({
    [`/bowline/node_modules/@bowline/${workspace}/package.json`]: written(
      JSON.stringify({ name: `@bowline/${workspace}`, type: "module", exports: { [entry]: "./leads.js" } }),
    ),
    [`/bowline/node_modules/@bowline/${workspace}/leads.js`]: written(`export * from "/bowline/${to}";\n`),
  });
  const document = "agents/core/src/runtimes/forwards/document.ts";
  const sources = readdirSync(join(root, "agents/forwarder/src"))
    .filter((file) => !file.endsWith(".test.ts"))
    .map((file) => `agents/forwarder/src/${file}`);
  const own = [...sources, "agents/forwarder/package.json", "agents/core/package.json", document];
  const start = ["libs/start/package.json", "libs/start/src/index.ts"];
  await docker.importNode(name, {
    ...Object.fromEntries([...own, ...start].map((path) => [`/bowline/${path}`, join(root, path)])),
    ...leads("start", ".", "libs/start/src/index.ts"),
    ...leads("agent-core", "./forwards", document),
  });
}
