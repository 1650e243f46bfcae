import { z } from "zod";

const sha256 = z.string().nullable();

/** A circuit, and what it was chosen for: enough to measure it again, and to refuse to on anything else. */
export const circuitSchema = z.strictObject({
  format: z.literal(1),
  features: z.record(z.string(), z.array(z.int().min(0))).describe("feature indices by site, ascending"),
  sites: z.array(z.string()).describe("where everything outside the circuit is ablated; sites without features too"),
  way: z.string().describe("how the features were chosen, as `sfc evaluate --ways` names it"),
  ablation: z
    .enum(["mean", "patch", "zero"])
    .nullable()
    .describe("the ablation that masks were fitted to; null where none took part"),
  errors: z.enum(["ablated", "clean", "removed", "kept"]).describe("what became of the errors meanwhile"),
  cases: z.array(z.string()).describe("cases of the train pairs that it was chosen on"),
  pairs: z.int().min(1).describe("how many train pairs there were"),
  model: z.strictObject({ name: z.string(), sha256: z.string() }),
  dictionaries: z.array(z.strictObject({ site: z.string(), sha256 })),
});

/** The `circuit` of circuit.json. */
export type Circuit = z.infer<typeof circuitSchema>;
