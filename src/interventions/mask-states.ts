import { z } from "zod";
import type { Features } from "./ablation.ts";
import { featuresJson } from "./evaluation.ts";

const bySite = z.record(z.string(), z.array(z.number()));
const count = z.int().min(0);

/** Masks in the making on one part of the pairs: all that the next step of Adam depends on, by site in the order of the picked features. */
export const maskStateSchema = z.strictObject({
  /** Steps that are done. */
  steps: count,
  masks: bySite,
  /** Adam's running means of the gradient and of its square. */
  mean: bySite,
  square: bySite,
  stages: z.array(z.strictObject({ price: z.number(), loss: z.number(), masks: bySite })),
});

export type MaskState = z.infer<typeof maskStateSchema>;

/** Masks in the making on all parts that were begun, the last of which may not be done, and the candidates that they are of. */
export const maskStatesSchema = z.strictObject({
  features: z.record(z.string(), z.array(count)),
  parts: z.array(maskStateSchema),
});

export type MaskStates = z.infer<typeof maskStatesSchema>;

/** Where masks in the making are kept, so that an interrupted command goes on with the next step. */
export interface MaskPlaces {
  /** What was written last. */
  read(): Promise<MaskStates | undefined>;
  write(states: MaskStates): Promise<void>;
}

/** The parts that were kept of masks of these candidates; none where they are of others. */
export async function keptParts(places: MaskPlaces | undefined, features: Features): Promise<MaskState[]> {
  const states = await places?.read();
  const same = JSON.stringify(states?.features) === JSON.stringify(featuresJson(features));
  return states !== undefined && same ? states.parts : [];
}
