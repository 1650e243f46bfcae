import { readdirSync, readlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { afterAll } from "vitest";
import { forTests } from "./runtime.mjs";

await forTests();

const root = fileURLToPath(new URL("..", import.meta.url));

/** The files of this project, and temporary ones, that this process has open; none where the system does not tell. */
function openFiles() {
  try {
    return readdirSync("/proc/self/fd").flatMap((fd) => {
      try {
        const path = readlinkSync(`/proc/self/fd/${fd}`);
        const ours = path.startsWith(root) ? !path.includes("node_modules") : path.startsWith(`${tmpdir()}/`);
        return ours ? [path] : [];
      } catch {
        return [];
      }
    });
  } catch {
    return [];
  }
}

/** What Node says of files that nobody closed before they were collected. */
const collected = [];
process.on("warning", ({ message }) => {
  if (message.startsWith("Closing file descriptor")) collected.push(message);
});

// Whoever opens a file closes it. The first hook to be registered runs last.
const before = openFiles();
const leftOpen = () => openFiles().filter((path) => !before.includes(path));
/** A loader's threads may be reading modules this very moment; everything else has to be closed by now. */
const isLoading = (paths) => paths.length > 0 && paths.every((path) => /\.[cm]?[jt]sx?$|\/package\.json$/.test(path));
afterAll(async () => {
  let left = leftOpen();
  for (let waits = 0; waits < 20 && isLoading(left); waits++) {
    await new Promise((done) => setTimeout(done, 100));
    left = leftOpen();
  }
  if (collected.length > 0) throw new Error(`files left open: ${collected.join(", ")}`);
  if (left.length > 0) throw new Error(`files left open: ${[...new Set(left)].join(", ")} (${left.length} in all)`);
});
