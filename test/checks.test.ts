import { describe, expect, it } from "vitest";
import { check, poorEffectsLine, poorFitLine } from "../src/circuit/checks.ts";

describe("a check", () => {
  it("passes up to its tolerance of the scale, and fails above", () => {
    expect(check("sums", "embed", 1e-5, 0.1, 1e-4).passed).toBe(true);
    expect(check("sums", "embed", 1.1e-5, 0.1, 1e-4).passed).toBe(false);
  });

  it("fails where gap or scale are no numbers", () => {
    expect(check("sums", null, Number.NaN, 1, 1e-4).passed).toBe(false);
    expect(check("sums", null, 0, Number.POSITIVE_INFINITY, 1e-4).passed).toBe(false);
  });
});

describe("SAEs that fit these prompts badly", () => {
  it("are warned of where more than half of the variance is unexplained", () => {
    expect(poorFitLine({ "resid_post.0": 0.5, "mlp_out.0": null })).toBeUndefined();
    const line = (most: string) =>
      `SAEs leave more than half of the variance of these prompts' activations unexplained at 2 of 3 sites (most: ${most} at resid_post.1): what they call features is the lesser part there.`;
    expect(poorFitLine({ "resid_post.0": 0.51, "resid_post.1": 0.97, "mlp_out.0": 0.1 })).toBe(line("97 %"));
    expect(poorFitLine({ "resid_post.0": 0.51, "resid_post.1": 1.27, "mlp_out.0": 0.1 })).toBe(
      `${line("127 %")} Above 100 % their mean would fit better; with few prompts, which vary little, that says little.`,
    );
  });
});

describe("effects that are far from the exact ones", () => {
  it("are warned of where they miss them by more than their own size", () => {
    expect(poorEffectsLine(null)).toBeUndefined();
    expect(poorEffectsLine(1)).toBeUndefined();
    expect(poorEffectsLine(1.17)).toContain("Σ|effect − exact| is 117 % of Σ|exact|");
  });
});
