// A short `sfc bench` on a device, in a process of its own: its JSON, then its text.
const from = (path) => import(new URL(`../dist/${path}`, import.meta.url).href);
const { bench } = await from("commands/bench.js");
const { benchText } = await from("cli/bench-text.js");
const reporter = { begin() {}, set() {}, end() {}, line() {}, stopped: () => false };
const effort = { repeats: 1, sizes: [[8, 16, 32]], forestRepeats: 1, examples: 1 };
const result = await bench({ model_name: "demo", pairs: null, seed: 1, device: process.argv[2] }, reporter, effort);
process.stdout.write(`${JSON.stringify(result)}\n${benchText(result)}\n`);
