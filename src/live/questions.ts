import { z } from "zod";
import { type MethodName, methodNames } from "../effects/method.ts";
import type { Intervention } from "../interventions/intervene.ts";
import type { ReportCircuit } from "../report/circuit.ts";
import type { SiteName } from "../site.ts";
import type { LiveFound } from "./effects.ts";

/** A model with SAEs that live work can be done on: the page names it, and never a path. */
export interface ModelChoice {
  readonly id: string;
  readonly model: string;
  /** Null for the model's own. */
  readonly saes: string | null;
}

/** A model that is open. */
export interface OpenedModel extends ModelChoice {
  readonly layers: number;
  readonly sites: readonly { readonly site: SiteName; readonly features: number }[];
  readonly warnings: readonly string[];
  /** In memory: the model's weights, the SAEs read by now, and the whole process where that can be told. */
  readonly bytes: { readonly weights: number; readonly saes: number; readonly resident?: number };
}

/** A pair as it is typed. A space is put before an answer that needs one. */
export interface TypedPair {
  readonly clean: string;
  readonly patch: string;
  readonly clean_answer: string;
  readonly patch_answer: string;
}

/** What live work is done on. */
export interface LiveSubject {
  /** The id of a `ModelChoice`. */
  readonly model: string;
  readonly pairs: readonly TypedPair[];
}

/** Every live answer: where it can be saved from, how long it took, what was left out, what to know. */
export interface LiveAnswer {
  /** By which it is saved. */
  readonly id: string;
  /** From the question's turn to its answer; what of it was the opening of the model. */
  readonly seconds: number;
  readonly opening_seconds: number;
  readonly model: OpenedModel;
  /** Pairs that cannot be used, by their places, with the reason. */
  readonly rejected: readonly { readonly pair: number; readonly reason: string }[];
  readonly notes: readonly string[];
}

export interface EffectsRequest extends LiveSubject {
  readonly method: MethodName;
  /** Features per site. */
  readonly top: number;
}

/** Features whose codes are changed, in the form of `sfc evaluate --ablate`: `resid_post.2/1035`, with a number `resid_post.2/1035=0.5`. */
export interface InterveneRequest extends LiveSubject {
  readonly ablate: readonly string[];
  readonly scale: readonly string[];
  readonly set: readonly string[];
}

/** A token's probability to come next. */
export interface NextChange {
  readonly token: number;
  readonly text: string;
  readonly before: number;
  readonly after: number;
}

/** What the model does at the clean prompts before and after features are changed. */
export interface Intervened {
  readonly interventions: readonly Intervention[];
  /** m in logits, by pair. */
  readonly pairs: readonly { readonly before: number; readonly after: number; readonly next: readonly NextChange[] }[];
}

export interface CircuitRequest extends LiveSubject {
  /** Features of the circuit. */
  readonly size: number;
}

/** What can be asked of an open model, by kind. */
export interface LiveAsks {
  readonly effects: { request: EffectsRequest; found: LiveFound };
  readonly intervene: { request: InterveneRequest; found: Intervened };
  readonly circuit: { request: CircuitRequest; found: { readonly circuit: ReportCircuit } };
}

export type LiveKind = keyof LiveAsks;

const text = z.string().max(20_000);
const prompt = text.min(1);
const features = z.array(text).max(200);
const subject = {
  model: text,
  pairs: z
    .array(z.strictObject({ clean: prompt, patch: prompt, clean_answer: prompt, patch_answer: prompt }))
    .min(1)
    .max(100),
};

/** The forms of requests. */
export const liveRequests = {
  effects: z.strictObject({ ...subject, method: z.enum(methodNames), top: z.int().min(1).max(200) }),
  intervene: z.strictObject({ ...subject, ablate: features, scale: features, set: features }),
  circuit: z.strictObject({ ...subject, size: z.int().min(1).max(500) }),
} as const satisfies { readonly [K in LiveKind]: z.ZodType<LiveAsks[K]["request"]> };
