import { configDefaults, defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { conditions: ["source"] },
  ssr: { resolve: { conditions: ["source", "node", "import", "module", "default"] } },
  test: {
    include: ["test/**/*.test.ts"],
    // Real weights: npm run test:real.
    exclude: [...configDefaults.exclude, "test/real/**"],
    // Sessions hold native threads; two forks are enough for two cores and keep memory small.
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
