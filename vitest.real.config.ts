import { configDefaults, mergeConfig } from "vitest/config";
import base from "./vitest.config.ts";

/** Tests with real weights (`npm run test:real`): they fetch some 350 MB and want Python, so they are no part of `npm test`. */
const config = mergeConfig(base, { test: { maxWorkers: 1, testTimeout: 1_800_000, hookTimeout: 3_600_000 } });
config.test.include = ["test/real/**/*.test.ts"];
config.test.exclude = configDefaults.exclude;
export default config;
