/** A client that keeps asking, and what answers it. */
import { atEnd } from "@bowline/testing";

export interface Asking {
  /** What was answered so far, in order without repetitions. */
  seen: string[];
  /** What was not answered with 200, or not at all. */
  failures: string[];
  /** Ends the asking; with how often it was done. */
  end: () => Promise<{ seen: string[]; failures: string[]; asked: number }>;
}

/** What answers its version at the port 8080, and ends at once. */
export const answering = (version: string): string[] => [
  ...["sh", "-c"],
  `mkdir -p /tmp/www; echo ${version} > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www`,
];

/** Asks again and again until it is told to end, or the test ends; each time with a connection of its own. */
export function keepAsking(port: number): Asking {
  const seen: string[] = [];
  const failures: string[] = [];
  let asked = 0;
  let ends = false;
  const asking = (async () => {
    while (!ends) {
      try {
        const response = await fetch(`http://127.0.0.1:${port}/`, {
          headers: { connection: "close" },
          signal: AbortSignal.timeout(30_000),
        });
        const text = (await response.text()).trim();
        if (response.status !== 200) failures.push(`${response.status} ${text}`);
        else if (!seen.includes(text)) seen.push(text);
      } catch (error) {
        failures.push(String((error as Error).cause ?? error));
      }
      asked += 1;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  const end = async () => {
    ends = true;
    await asking;
    return { seen, failures, asked };
  };
  atEnd(() => end().then(() => undefined));
  return { end, seen, failures };
}
