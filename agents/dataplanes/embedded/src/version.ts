/** The version of this package: of the adapter and of the data plane that it starts. */
import { readFileSync } from "node:fs";

const packageJson = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as {
  version: string;
};

export const { version } = packageJson;
