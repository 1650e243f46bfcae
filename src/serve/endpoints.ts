import { z } from "zod";
import { methodNames } from "../effects/method.ts";
import { liveRequests } from "../live/questions.ts";
import { taskNames } from "../prompts/english/tasks.ts";
import type { EndpointName, RequestOf, ResponseOf } from "./api.ts";
import { compareRuns } from "./compare-runs.ts";
import { listFolder } from "./listing.ts";
import type { Live } from "./live.ts";
import type { Places } from "./places.ts";
import type { Queries } from "./queries.ts";
import { effectRows } from "./rows.ts";
import { saveAnswer } from "./save.ts";
import type { Work } from "./work.ts";

/** What answers are made from. */
export interface Context {
  readonly places: Places;
  readonly live: Live;
  readonly work: Work;
  readonly queries: Queries;
}

/** How an endpoint reads what it is asked, and answers. */
export interface Endpoint<N extends EndpointName> {
  /** Requests with GET come as texts. */
  readonly schema: z.ZodType<RequestOf<N>>;
  answer(request: RequestOf<N>, context: Context): Promise<ResponseOf<N>>;
}

const nothing = z.strictObject({});
const text = z.string().max(20_000);
const split = z.enum(["train", "test"]);
/** A new file or folder directly in the folder: plain on every system, and not hidden. */
const folderName = z.string().regex(/^[A-Za-z0-9_][\w.+@-]{0,99}$/, "a name of letters, digits and . _ - + @");

/** All endpoints: one that is missing does not compile. */
export const endpoints: { readonly [N in EndpointName]: Endpoint<N> } = {
  "GET folder": { schema: nothing, answer: (_, { places }) => listFolder(places) },
  "GET rows": {
    schema: z.strictObject({
      run: text,
      site: text.optional(),
      split: split.optional(),
      case: text.optional(),
      feature: z.coerce
        .number()
        .int()
        .min(-1)
        .max(2 ** 31 - 1)
        .optional(),
      offset: z.coerce
        .number()
        .int()
        .min(0)
        .max(2 ** 31 - 1),
      limit: z.coerce.number().int().min(1).max(1000),
    }),
    answer: (request, context) => effectRows(context, request),
  },
  "GET compare": {
    schema: z.strictObject({ left: text, right: text, split, top: z.coerce.number().int().min(1).max(1000) }),
    answer: (request, context) => compareRuns(context, request),
  },
  "GET live": { schema: nothing, answer: (_, { live }) => live.state() },
  "POST live/effects": {
    schema: liveRequests.effects,
    answer: (request, { live }) => live.ask("effects", request),
  },
  "POST live/intervene": {
    schema: liveRequests.intervene,
    answer: (request, { live }) => live.ask("intervene", request),
  },
  "POST live/circuit": {
    schema: liveRequests.circuit,
    answer: (request, { live }) => live.ask("circuit", request),
  },
  "POST live/save": {
    schema: z.strictObject({ id: text, name: folderName }),
    answer: async ({ id, name }, { live, places }) => ({ file: await saveAnswer(places, name, live.answer(id)) }),
  },
  "GET work": { schema: nothing, answer: async (_, { work }) => ({ runs: work.states() }) },
  "POST work/start": {
    schema: z.strictObject({
      name: folderName,
      model: text,
      method: z.enum(methodNames),
      of: z.union([
        z.strictObject({ task: z.enum(taskNames), num_examples: z.int().min(1).max(10_000) }),
        z.strictObject({ pairs: liveRequests.effects.shape.pairs }),
      ]),
    }),
    answer: (request, { work }) => work.start(request),
  },
  "POST work/stop": { schema: z.strictObject({ id: text }), answer: async ({ id }, { work }) => work.stop(id) },
};
