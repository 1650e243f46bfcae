import { fileURLToPath } from "node:url";
import { defineConfig, type Plugin } from "vite";

/**
 * Puts the page's script and style into its HTML, so that a report is one file that opens without a server. Escapes what would end the element
 * that it is put into.
 */
function oneFile(): Plugin {
  return {
    name: "one-file",
    enforce: "post",
    generateBundle(_, bundle) {
      const text = new Map<string, string>();
      for (const [name, file] of Object.entries(bundle)) {
        if (name.endsWith(".html")) continue;
        text.set(name, file.type === "chunk" ? file.code : String(file.source));
        delete bundle[name];
      }
      const take = (name: string) => {
        const found = text.get(name);
        if (found === undefined) throw new Error(`internal: the page asks for ${name}, which the bundle does not have`);
        text.delete(name);
        return found;
      };
      for (const file of Object.values(bundle)) {
        if (file.type !== "asset") continue;
        // The script goes last: it reads the data element above it.
        let script = "";
        const page = String(file.source)
          .replace(/<script type="module"[^>]* src="\.\/([^"]+)"><\/script>\s*/g, (_, name: string) => {
            script += take(name).replaceAll("</script", "<\\/script").replaceAll("<!--", "\\x3c!--");
            return "";
          })
          .replace(/<link rel="stylesheet"[^>]* href="\.\/([^"]+)">/g, (_, name: string) => {
            return `<style>${take(name).replaceAll("</style", "<\\/style")}</style>`;
          });
        file.source = page.replace("</body>", () => `<script type="module">${script}</script>\n  </body>`);
      }
      if (text.size > 0) throw new Error(`internal: not used by the page: ${[...text.keys()].join(", ")}`);
    },
  };
}

/** Makes report.html, or with `--mode serve` the page of `sfc serve`: each is one file with all of its own script in it. */
export default defineConfig(({ mode }) => ({
  root: fileURLToPath(new URL(".", import.meta.url)),
  base: "./",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  plugins: [oneFile()],
  build: {
    outDir: fileURLToPath(new URL("../dist/web", import.meta.url)),
    emptyOutDir: mode !== "serve",
    target: "es2023",
    cssTarget: "chrome123",
    modulePreload: false,
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1000,
    rolldownOptions: {
      input: fileURLToPath(new URL(mode === "serve" ? "./serve.html" : "./report.html", import.meta.url)),
    },
  },
}));
