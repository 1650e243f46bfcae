import { basename, join, resolve } from "node:path";
import { type CompareOptions, type JobOptions, taskName, type WorkOptions } from "../analysis/options.ts";
import { sha256OfText } from "../bytes/sha256.ts";
import { defaultSteps } from "../effects/method.ts";

/** What `--top` and `--methods` are where they are not given. */
export const defaultTop = 20;
export const defaultMethods = "analytic,sfc";

/** Longer names of folders end with a hash in place of the rest. */
const longestName = 100;

/** Where a run's results go without `--output_dir`: `outputs/<model>-<task or file>-<seed>`, then each option that is not the default. */
export function runFolder(options: JobOptions): string {
  const { method, steps, rule, score, keep, top } = options;
  return named([
    ...settingParts(options),
    method !== "analytic" && method,
    steps !== undefined && (method === "secant" || steps !== defaultSteps) && `steps${steps}`,
    rule === "left" && rule,
    score !== "effect" && score,
    keep !== "all" && keep,
    top !== defaultTop && `top${top}`,
  ]);
}

/** Where a comparison goes without `--output_dir`: the run's name, `-compare`, then each option that is not the default. */
export function compareFolder(options: CompareOptions): string {
  const { methods, steps, rule, top, by_pair, weights } = options;
  return named([
    ...settingParts(options),
    "compare",
    methods !== defaultMethods && methods,
    steps !== defaultSteps && `steps${steps}`,
    rule === "left" && rule,
    top !== null && `top${top}`,
    by_pair && "by_pair",
    weights !== "held" && weights,
  ]);
}

function settingParts(setting: WorkOptions): (string | number | false)[] {
  const { model_name, sae_source, sites, layers, num_examples, answer_tokens, seed, precision, device } = setting;
  return [
    nameOf(model_name) || "model",
    taskName(setting),
    seed,
    sae_source !== null && (nameOf(sae_source) || "saes"),
    sites !== null && sites,
    layers !== null && `layers${layers}`,
    num_examples !== null && `n${num_examples}`,
    answer_tokens === "first" && "first",
    precision !== "float32" && precision,
    device !== "cpu" && device,
  ];
}

/** The last name of a path. `.` and `..` are folders with names of their own; a name that begins with a dot would be hidden. */
const nameOf = (path: string) => basename(resolve(path)).replace(/^\.+/, "");

function named(parts: readonly (string | number | false)[]): string {
  const name = parts
    .filter((part) => part !== false)
    .map((part) => String(part).replace(/\s*,\s*/g, "+"))
    .join("-")
    .replace(/[^\w.+@-]+/g, "_");
  if (name.length <= longestName) return join("outputs", name);
  return join("outputs", `${name.slice(0, longestName - 9)}-${sha256OfText(name).slice(0, 8)}`);
}
