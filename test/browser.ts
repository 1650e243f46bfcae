import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, chromium } from "playwright-core";

/** A browser without a window, and a folder of its own that goes with it. */
export interface StartedBrowser {
  readonly browser: Browser;
  readonly folder: string;
  close(): Promise<void>;
}

/** Starts a browser; null, with a warning, where none starts. @param gpu with WebGPU on its graphics card in software */
export async function startBrowser(gpu = false): Promise<StartedBrowser | null> {
  const folder = mkdtempSync(join(tmpdir(), "sfc-browser-"));
  const browser = await launch(folder, gpu ? "--enable-unsafe-webgpu" : "--disable-gpu");
  if (typeof browser === "string") {
    console.warn(`Browser tests are skipped: ${browser}`);
    rmSync(folder, { recursive: true, force: true });
    return null;
  }
  return {
    browser,
    folder,
    async close() {
      await browser.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

// The package brings the libraries and fonts that a bare machine lacks. It unpacks the libraries when told that it is on Amazon Linux, and its own
// fonts.conf looks in /tmp only: a page without any font crashes.
async function launch(folder: string, graphics: string): Promise<Browser | string> {
  const before = { ...process.env };
  writeFileSync(
    join(folder, "fonts.conf"),
    `<fontconfig><dir>${folder}/fonts</dir><cachedir>${folder}/fonts-cache</cachedir></fontconfig>`,
  );
  Object.assign(process.env, { TMPDIR: folder, FONTCONFIG_PATH: folder, AWS_LAMBDA_JS_RUNTIME: "nodejs20.x" });
  const args = ["--no-sandbox", graphics, "--disable-background-networking", "--no-first-run"];
  try {
    const { default: packaged } = await import("@sparticuz/chromium");
    return await chromium.launch({ executablePath: await packaged.executablePath(), args });
  } catch (first) {
    const systems = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    for (const executablePath of systems) {
      const browser = await chromium.launch({ executablePath, args }).catch(() => null);
      if (browser !== null) return browser;
    }
    return `no browser starts here (${String(first).split("\n")[0]})`;
  } finally {
    for (const name of ["TMPDIR", "AWS_LAMBDA_JS_RUNTIME", "LD_LIBRARY_PATH", "FONTCONFIG_PATH", "HOME"]) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
}
