import { describe, expect, it } from "vitest";
import { overChunks } from "../src/graph/chunks.ts";
import { runMemory } from "../src/graph/memory.ts";
import { gradients } from "../src/graph/reverse.ts";
import { input } from "../src/graph/tensor.ts";

/** Counted by hand; a column of N numbers in float32 takes 400 bytes. */
describe("the memory of a run", () => {
  const sizes = { N: 100 };
  const x = input("x", "float32", ["N", 1]);
  const w = input("w", "float32", [1, 5]);

  it("counts a result from its operation to the last one that needs it", () => {
    // The product [N,5]; its sum beside it.
    expect(runMemory([x.matmul(w).sum(-1)], sizes)).toEqual({ peak: 2000 + 400, results: 400, operations: 2 });
  });

  it("puts results in the place of operands that nobody else needs, and gives views none", () => {
    expect(runMemory([x.exp().mul(2).reshape("N").neg()], sizes)).toMatchObject({ peak: 400, results: 400 });
    const y = x.exp();
    // The exponential is a result itself, so its negative needs room.
    expect(runMemory([y, y.neg()], sizes)).toMatchObject({ peak: 800, results: 800 });
  });

  it("computes equal operations once", () => {
    expect(runMemory([x.exp().mul(x.exp())], sizes).operations).toBe(2);
  });

  it("keeps for the gradient what the pullbacks need", () => {
    const deep = (layers: number) => {
      let y = x;
      for (let i = 0; i < layers; i++) y = y.mul(1.5).tanh();
      return runMemory(gradients(y.sum(), [x]), sizes).peak;
    };
    // Of each layer the tanh, from which its pullback is computed.
    expect(deep(11) - deep(10)).toBe(400);
  });

  it("counts one chunk where a graph goes chunk by chunk, forward and in reverse", () => {
    const chunks = (c: number) => {
      const rows = input("rows", "float32", [c, 8, 4]);
      const keys = input("keys", "float32", [4, 1000]);
      const z = overChunks(([q], [k]) => q!.matmul(k!).softmax().sum(-1), [rows], [keys]);
      return [runMemory([z], {}), runMemory(gradients(z.sum(), [rows, keys]), {})].map(({ peak }) => peak);
    };
    const [[forward, backward], [more, moreBackward]] = [chunks(2), chunks(20)];
    // Scores and weights of one chunk, [8,1000] each.
    expect(forward).toBeGreaterThanOrEqual(2 * 4 * 8000);
    expect(forward).toBeLessThan(2.1 * 4 * 8000);
    expect(backward).toBeGreaterThan(forward!);
    // Eighteen more chunks add nothing but their rows and results.
    expect(more! - forward!).toBe(18 * 4 * 8);
    expect(moreBackward! - backward!).toBeLessThan(18 * 4 * 8 * 10);
  });
});
