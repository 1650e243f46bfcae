import { describe, expect, test } from "vitest";
import { heldDictionary } from "../src/dictionaries/held.ts";
import { keptSessions } from "../src/graph/kept-sessions.ts";
import type { Session } from "../src/graph/runtime.ts";
import { compile, float32 } from "../src/graph/session.ts";
import { input } from "../src/graph/tensor.ts";
import { randomDictionary } from "./random-dictionary.ts";

/** Sessions that do nothing and say when they are opened and ended. */
function told() {
  const lines: string[] = [];
  const open = (name: string) => async (): Promise<Session> => {
    lines.push(`open ${name}`);
    return { run: async () => ({}), release: async () => void lines.push(`end ${name}`) };
  };
  const lend = (kept: ReturnType<typeof keptSessions>, name: string) =>
    kept.lend(new TextEncoder().encode(name), open(name));
  return { lines, lend };
}

describe("kept sessions", () => {
  test("are opened once for equal files, and of those that nobody uses the longest unused one ends first", async () => {
    const { lines, lend } = told();
    const kept = keptSessions(2);
    for (const name of ["a", "b", "a", "c"]) await (await lend(kept, name)).release();
    expect(lines).toEqual(["open a", "open b", "open c", "end b"]);
    await kept.release();
    expect(lines.slice(4).sort()).toEqual(["end a", "end c"]);
  });

  test("that are in use stay, however many there are, and giving one back twice counts once", async () => {
    const { lines, lend } = told();
    const kept = keptSessions(0);
    const [first, second] = [await lend(kept, "a"), await lend(kept, "a")];
    await first.release();
    await first.release();
    await kept.release();
    expect(lines).toEqual(["open a"]);
    await second.release();
    expect(lines).toEqual(["open a", "end a"]);
  });

  test("that could not be opened are asked for again", async () => {
    const kept = keptSessions(2);
    const file = new Uint8Array([1]);
    const broken = kept.lend(file, async () => {
      throw new Error("no memory");
    });
    await expect(broken).rejects.toThrow("no memory");
    const { lines, lend } = told();
    await lend(kept, "\u0001");
    expect(lines).toEqual(["open \u0001"]);
  });

  test("compute with each caller's own constants", async () => {
    const kept = keptSessions(4);
    const x = input("x", "float32", [2]);
    const double = await compile({ y: x.add(x) }, { kept });
    await double.release();
    const again = await compile({ y: x.add(x) }, { kept });
    const { y } = await again.run({ x: float32(Float32Array.of(1, 2), 2) });
    expect([...(y.data as Float32Array)]).toEqual([2, 4]);
    await again.release();
    await kept.release();
  });
});

test("a held dictionary reads each of its weights once, and has the rows that it has", async () => {
  const plain = randomDictionary("resid_post.0", 8, 16, "held");
  const reads: string[] = [];
  const count = <T>(name: string, value: T): T => {
    reads.push(name);
    return value;
  };
  const counted = heldDictionary({
    ...plain,
    encoder: () => count("encoder", plain.encoder()),
    decoder: () => count("decoder", plain.decoder()),
    decoderBias: () => count("bias", plain.decoderBias()),
    decoderRows: () => Promise.reject(new Error("read again")),
  });
  const features = [3, 0, 3];
  for (let i = 0; i < 2; i++) {
    expect(await counted.decoderRows(features)).toEqual(await plain.decoderRows(features));
    expect(await counted.encoder()).toEqual(await plain.encoder());
    expect(await counted.decoderBias()).toEqual(await plain.decoderBias());
  }
  expect(reads.sort()).toEqual(["bias", "decoder", "encoder"]);
  const { inputWidth: D, outputWidth, featureCount: F } = plain;
  expect(counted.heldBytes()).toBeGreaterThanOrEqual(4 * (D * F + F * outputWidth + F + outputWidth));
});
