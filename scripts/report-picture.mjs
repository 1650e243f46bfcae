// Takes a picture of a report, as a reader sees it in a browser without a window.
//
//   node scripts/report-picture.mjs REPORT.html PICTURE.png [ADDRESS] [WIDTHxHEIGHT] [light|dark]
//
// ADDRESS is what stands behind the file's name, e.g. "#found?site=resid_post.2&feature=1035". docs/report.png is made from the default run:
//
//   ./sfc run --output_dir outputs/picture && node scripts/report-picture.mjs outputs/picture/report.html docs/report.png \
//     "#?site=resid_post.2&feature=1035" 1440x1000
import { fileURLToPath, pathToFileURL } from "node:url";
import { createServer as createVite } from "vite";

const [report, picture, address = "", size = "1440x1000", scheme = "light"] = process.argv.slice(2);
const [width, height] = size.split("x").map(Number);
if (picture === undefined || !(width > 0 && height > 0)) {
  console.error("usage: node scripts/report-picture.mjs REPORT.html PICTURE.png [ADDRESS] [WIDTHxHEIGHT] [light|dark]");
  process.exit(2);
}

const vite = await createVite({
  root: fileURLToPath(new URL("..", import.meta.url)),
  configFile: false,
  logLevel: "error",
  appType: "custom",
  server: { middlewareMode: true, hmr: false, ws: false },
});
const { startBrowser } = await vite.ssrLoadModule("/test/browser.ts");
const started = await startBrowser();
if (started === null) process.exit(1);
const page = await started.browser.newPage({ viewport: { width, height }, colorScheme: scheme });
await page.goto(pathToFileURL(report).href + address);
await page.waitForSelector("#run");
await page.waitForTimeout(500);
await page.screenshot({ path: picture });
await started.close();
await vite.close();
