import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

/** The static site without its data, which scripts/build-site.mjs puts beside it. */
export default defineConfig({
  root: fileURLToPath(new URL(".", import.meta.url)),
  base: "./",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  resolve: {
    // The build that needs no script of its own inside ours, and of the two for the CPU the one without WebGL.
    conditions: ["source", "onnxruntime-web-use-extern-wasm", "browser", "import", "module", "default"],
    alias: [{ find: /^onnxruntime-web$/, replacement: "onnxruntime-web/wasm" }],
  },
  worker: { format: "es" },
  build: {
    outDir: fileURLToPath(new URL("../../dist/site", import.meta.url)),
    emptyOutDir: true,
    target: "es2023",
    cssTarget: "chrome123",
    modulePreload: false,
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 2000,
  },
  // What lets the page use threads.
  preview: {
    host: "localhost",
    headers: { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp" },
  },
});
