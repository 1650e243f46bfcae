// Builds anew what `npm pack` takes, so that nothing of an older build gets in. In a fresh clone it installs what the build needs.
import { execSync } from "node:child_process";
import { existsSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";

const cwd = fileURLToPath(new URL("..", import.meta.url));
// npm's standard output belongs to the caller: `npm pack --json` is read by programs.
const run = (command) => execSync(command, { cwd, stdio: ["ignore", 2, 2] });
rmSync(`${cwd}dist`, { recursive: true, force: true });
if (!existsSync(`${cwd}node_modules/.package-lock.json`))
  run("npm ci --include=dev --no-audit --no-fund --loglevel=error");
run("npm run --silent build");
