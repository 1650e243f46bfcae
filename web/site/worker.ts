import { config } from "zod";
import { shareOf } from "../../src/analysis/parity.ts";
import { messageOf, UserError } from "../../src/errors.ts";
import { prepareRuntime } from "../../src/graph/session.web.ts";
import { answerLive, type OpenLive } from "../../src/live/answers.ts";
import { openLive } from "../../src/live/open.ts";
import { allFeatures, compareEffects } from "../../src/live/parity.ts";
import { type LiveAnswer, type LiveAsks, type LiveKind, liveRequests } from "../../src/live/questions.ts";
import { postingReporter } from "../../src/progress.ts";
import { download, downloadModel } from "./download.ts";
import type { FromWorker, Ready, Site, ToWorker } from "./messages.ts";

/**
 * Live work in the page's own worker: opens the model on one device, compares the device with the site's reference, and then answers questions, one
 * after another.
 */

// The page's policy allows no code that is made from text.
config({ jitless: true });

/** How far effects may be from the reference's, as a share of the largest of their site. */
const tolerances = { cpu: 1e-4, webgpu: 1e-3 } as const;

const say = (message: FromWorker) => postMessage(message);
const reporter = postingReporter(
  () => {},
  () => false,
);

async function open({ device, threads, site, base }: Extract<ToWorker, { type: "open" }>): Promise<OpenLive> {
  const { mjs, wasm } = site.runtime[device];
  const total = [wasm, ...site.model.files].reduce((sum, { bytes }) => sum + bytes, 0);
  let done = 0;
  const onBytes = (bytes: number) => {
    done += bytes;
    say({ type: "loading", done, total });
  };
  const [[binary], folder] = await Promise.all([download(base, [wasm], onBytes), downloadModel(base, site, onBytes)]);
  say({ type: "checking" });
  await prepareRuntime(device, { mjs: new URL(mjs, base).href, wasm: binary!, threads });
  const opened = await openLive({ name: site.model.name, folder, device, precision: "float32" });
  say({ type: "ready", ...(await tryOut(opened, site.reference, tolerances[device])) });
  return opened;
}

/** Asks a device the reference's question twice: once to compare it, once more to see how long it takes. */
async function tryOut(opened: OpenLive, reference: Site["reference"], tolerance: number): Promise<Ready> {
  const { pair, method } = reference;
  const request = { model: opened.name, pairs: [pair], method, top: allFeatures };
  const { found } = await answerLive(opened, "effects", request, reporter);
  const check = compareEffects(found, reference, tolerance);
  const share = shareOf(check);
  if (!check.passed) {
    throw new UserError(
      `effects: expected those that Node found to ${tolerance} of the largest, got a difference of ${share.toExponential(1)} at ${check.site}. Try another browser.`,
    );
  }
  const begun = performance.now();
  await answerLive(opened, "effects", request, reporter);
  return { share, site: check.site, tolerance, seconds: (performance.now() - begun) / 1000 };
}

/** The model, once it is open. */
let opened: Promise<OpenLive> | undefined;
/** The last question, which the next one waits for. */
let last: Promise<unknown> = Promise.resolve();

async function answer<K extends LiveKind>(
  id: number,
  kind: K,
  asked: unknown,
): Promise<LiveAnswer & LiveAsks[K]["found"]> {
  const begun = performance.now();
  const open = await opened!;
  const opening_seconds = (performance.now() - begun) / 1000;
  const request = readRequest(kind, asked);
  const { opened: about, found, rejected, notes } = await answerLive(open, kind, request, reporter);
  return {
    id: String(id),
    seconds: (performance.now() - begun) / 1000,
    opening_seconds,
    model: { id: open.name, model: open.name, saes: null, ...about },
    rejected,
    notes,
    ...found,
  };
}

/** @throws UserError if the request has not the form of its kind */
function readRequest<K extends LiveKind>(kind: K, asked: unknown): LiveAsks[K]["request"] {
  const result = liveRequests[kind].safeParse(asked);
  if (result.success) return result.data;
  const { path, message } = result.error.issues[0]!;
  throw new UserError(`request: expected another "${path.join(".")}" (${message}).`);
}

/** One line for the reader. */
const lineOf = (error: unknown) =>
  error instanceof UserError ? error.message : `This is a bug in sfc: ${messageOf(error)}`;

addEventListener("message", ({ data }: MessageEvent<ToWorker>) => {
  if (data.type === "open") {
    opened = open(data);
    opened.catch((error) => say({ type: "failed", error: lineOf(error) }));
    return;
  }
  const { id, kind, request } = data;
  last = last.then(() =>
    answer(id, kind, request).then(
      (answer) => say({ type: "answer", id, answer }),
      (error) => say({ type: "problem", id, error: lineOf(error) }),
    ),
  );
});
