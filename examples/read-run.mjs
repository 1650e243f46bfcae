// Reads the folder of a finished run: what was run, the strongest features, and at which words one of them acts.
import { readRun } from "analytic-sfc";

const run = await readRun(process.argv[2] ?? "outputs/quick_test");
console.log(
  `${run.manifest.model?.name}: ${run.pairs.length} pairs, ${run.manifest.checks.filter((c) => c.passed).length} checks passed`,
);

const features = await run.features({ split: "train", case: "", top: 1 });
const [strongest] = features.toSorted((a, b) => b.effect_abs - a.effect_abs);
if (!strongest) throw new Error("The run has no features.");
console.log(`${strongest.site}/${strongest.feature}: ${strongest.effect.toFixed(3)} logits`);

const nodes = await run.nodes();
const byToken = new Map();
for await (const row of run.effects({ site: strongest.site, feature: strongest.feature, split: "train" })) {
  const { token } = nodes[row.node];
  byToken.set(token, (byToken.get(token) ?? 0) + row.effect);
}
const words = [...byToken].sort(([, a], [, b]) => Math.abs(b) - Math.abs(a)).slice(0, 5);
console.log(words.map(([token, effect]) => `${token.trim()} (${effect.toFixed(1)})`).join(", "));
