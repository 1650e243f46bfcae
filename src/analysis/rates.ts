import type { Work } from "../capture/work.ts";
import type { Device } from "../graph/runtime.ts";
import { compile, float32 } from "../graph/session.ts";
import { constant, input } from "../graph/tensor.ts";
import { Random } from "../random.ts";

/** The program itself with its libraries, as resident memory, and per node of the plans. */
export const programBytes = 235e6;

/** Of a run the thread that writes and ranks its tables: its program, and what a site's rows take there. */
export const tablesThreadBytes = 70e6;
export const nodeBytes = 700;
/** What a machine's matrix products are taken to reach where the work is too small to measure them. */
export const assumedGflops = 150;
/** Work that is worth a measurement of the machine, in floating-point operations. */
const longWork = 2e12;

/** Milliseconds after which no further product is measured: some devices are slow. */
const mostMeasured = 2000;

/** Rates of everything but matrix products, on one core of a server of 2024; they bear on the time alone. */
export const rates = {
  /** Share of the rate of bare matrix products that a model's passes reach. */
  passes: 0.6,
  /** Bytes hashed and bytes of weights read into memory, per second. */
  hashed: 0.9e9,
  read: 2e9,
  /** Bytes of graphs with their weights inside made into sessions, per second. */
  compiled: 0.25e9,
  /** Numbers of dictionaries read, checked and laid out, per second. */
  decoded: 0.14e9,
  /** Numbers of decoder rows multiplied, and rows of tables written, per second. */
  products: 0.6e9,
  rows: 0.25e6,
  /** Sessions opened per second. */
  sessions: 40,
  /** Seconds that everything takes at least. */
  least: 1,
} as const;

/** Seconds of work; `gflops` is the rate of bare matrix products. */
export function secondsOf(work: Work, gflops: number): number {
  return (
    work.passes / (rates.passes * gflops * 1e9) +
    work.codes / (gflops * 1e9) +
    work.read / rates.read +
    work.dictionaries / rates.decoded +
    work.products / rates.products +
    work.rows / rates.rows +
    work.sessions / rates.sessions
  );
}

/** GFLOP/s to reckon with: measured where the largest part of the work is worth it, or is done on a device, whose rate may be any. */
export async function gflopsFor(flops: number, width: number, device: Device = "cpu"): Promise<number> {
  return device === "cpu" && flops < longWork ? assumedGflops : await gemmGflops(width, device);
}

/** GFLOP/s of a product of 512 rows with a matrix as wide as the model; takes about half a second. */
export async function gemmGflops(width: number, device: Device = "cpu"): Promise<number> {
  const [N, K, M] = [512, width, 4 * width];
  const random = new Random("gemm");
  const matrix = (n: number) => Float32Array.from({ length: n }, () => random.uniform() - 0.5);
  const product = input("x", "float32", [N, K])
    .matmul(constant(matrix(K * M), "float32", [K, M]))
    .sum(-1);
  const session = await compile({ y: product }, { device }, { embedConstants: true });
  const x = float32(matrix(N * K), N, K);
  let best = 0;
  await session.run({ x });
  const end = performance.now() + mostMeasured;
  for (let i = 0; i < 5 && (i === 0 || performance.now() < end); i++) {
    const start = performance.now();
    await session.run({ x });
    best = Math.max(best, (2 * N * K * M) / (performance.now() - start) / 1e6);
  }
  await session.release();
  return best;
}
