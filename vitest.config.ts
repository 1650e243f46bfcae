import { configDefaults, defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { conditions: ["source"] },
  ssr: { resolve: { conditions: ["source", "node", "import", "module", "default"] } },
  test: {
    include: ["test/**/*.test.ts"],
    // Real weights: npm run test:real.
    exclude: [...configDefaults.exclude, "test/real/**"],
    setupFiles: ["test/setup.mjs"],
    // Sessions hold native threads; two forks are enough for two cores and keep memory small.
    pool: "forks",
    maxWorkers: 2,
    // For what never ends alone: on a loaded machine a test may take many times as long as on an idle one.
    testTimeout: 600_000,
    hookTimeout: 600_000,
  },
});
