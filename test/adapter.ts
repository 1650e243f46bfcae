import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { brotliDecompressSync } from "node:zlib";

/** A graphics card in software (SwiftShader), as the environment that a process needs to find it. */
export interface Adapter {
  readonly env: Readonly<Record<string, string>>;
  remove(): void;
}

/** Debian's chromium brings one, and so does the package that the tests of pages use. Null, with a warning, where neither is there. */
export function softwareAdapter(): Adapter | null {
  const system = "/usr/lib/chromium/vk_swiftshader_icd.json";
  if (existsSync(system)) return { env: { VK_ICD_FILENAMES: system }, remove() {} };
  const folder = mkdtempSync(join(tmpdir(), "sfc-adapter-"));
  const remove = () => rmSync(folder, { recursive: true, force: true });
  try {
    const { resolve } = createRequire(import.meta.url);
    const packed = join(dirname(resolve("@sparticuz/chromium")), "../../bin/swiftshader.tar.br");
    const tar = brotliDecompressSync(readFileSync(packed));
    const { status, stderr } = spawnSync("tar", ["-x", "-C", folder], { input: tar, encoding: "utf8" });
    if (status !== 0) throw new Error(stderr);
    const env = { VK_ICD_FILENAMES: join(folder, "vk_swiftshader_icd.json"), LD_LIBRARY_PATH: folder };
    return { env, remove };
  } catch (error) {
    remove();
    console.warn(`Tests on a software adapter are skipped: there is none here (${String(error).split("\n")[0]})`);
    return null;
  }
}
