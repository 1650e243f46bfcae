import type { InferenceSession, Tensor as OrtTensor, TensorConstructor } from "onnxruntime-common";
import { writeOnnx } from "./onnx.ts";
import type { DType } from "./shape.ts";
import { input, type TypedData } from "./tensor.ts";

/** Where sessions run: the runtime's names of execution providers. A page has cpu and webgpu alone. */
export const devices = ["cpu", "webgpu", "cuda", "coreml", "dml"] as const;
export type Device = (typeof devices)[number];

/** Values that go into a session or come out of it, with their shapes at run time. */
export interface Value {
  readonly dtype: DType;
  /** Row by row; empty where the numbers are on a device alone. */
  readonly data: TypedData;
  readonly shape: readonly number[];
  /** The numbers on the device, for sessions there; on-device.ts makes such values and ends them. */
  readonly onDevice?: OrtTensor;
}

/** A compiled graph. */
export interface Session<I extends string = string, O extends string = string> {
  /**
   * Runs the graph once. Every input has to be given.
   *
   * @param into where results go, for all outputs or none; by default into new arrays
   */
  run(inputs: Readonly<Record<I, Value>>, into?: Readonly<Record<O, Value>>): Promise<Record<O, Value>>;
  /** Gives its memory back; the session cannot be used afterwards. */
  release(): Promise<void>;
}

/** Sessions that stay open for graphs that come again, as those of prompts of the same shape. */
export interface KeptSessions {
  /** The session of this ONNX file, with which it must have all in common; its `release` gives it back, and it stays open. */
  lend(file: Uint8Array, open: () => Promise<Session>): Promise<Session>;
  /** Ends all that nobody uses. */
  release(): Promise<void>;
}

/** Where and with how many threads a session computes. */
export interface SessionOptions {
  /** Threads within one operation; 0 leaves the choice to the runtime (all cores). */
  readonly threads?: number;
  /** Where to run: the runtime's name of an execution provider, "cpu" by default. */
  readonly device?: Device;
  /** Where sessions stay open for graphs that come again; by default none does. */
  readonly kept?: KeptSessions;
}

/** What a runtime is told besides. */
export interface RuntimeOptions extends SessionOptions {
  /** Whether the runtime may replace patterns of operations by fused ones; on a CPU the native one rewrites nothing anyway. */
  readonly fuse: boolean;
}

/** Whether a device can keep numbers between runs: of all providers, onnxruntime's packages can leave results on this one alone. */
export const keepsNumbers = (device: Device = "cpu"): boolean => device === "webgpu";

/** What the onnxruntime packages for Node and for the browser have in common. */
export interface Onnxruntime {
  readonly InferenceSession: {
    create(model: Uint8Array, options: InferenceSession.SessionOptions): Promise<InferenceSession>;
  };
  readonly Tensor: TensorConstructor;
  readonly env: { logLevel?: "verbose" | "info" | "warning" | "error" | "fatal" };
}

/** What all sessions on an execution provider are told. */
const sessionOptions = (provider: string): InferenceSession.SessionOptions => ({
  executionProviders: [provider],
  logSeverityLevel: 3,
  // A pattern lays all results of a run side by side ahead of time: as fast as without, for up to twice the memory.
  enableMemPattern: false,
});

/** Values as the runtime takes them. */
const tensorsOf =
  (Tensor: TensorConstructor) =>
  ({ dtype, data, shape, onDevice }: Value): OrtTensor =>
    onDevice ?? new Tensor(dtype, data as Float32Array, shape);

/** Opens what sends float32 numbers of a rank to a device, on which they stay. */
export type Sender = (rank: number) => Promise<(value: Value) => Promise<OrtTensor>>;

/**
 * Opens what sends float32 numbers to a device: a session for each rank whose result stays there. They are never closed: with the last session on a
 * device the runtime ends what keeps its memory.
 */
export function openSender({ InferenceSession: sessions, Tensor }: Onnxruntime, provider: string): Sender {
  const tensorOf = tensorsOf(Tensor);
  const made = new Map<number, Promise<InferenceSession>>();
  return async (rank) => {
    const known = made.get(rank);
    const session =
      known ?? sessions.create(copyGraph(rank), { ...sessionOptions(provider), preferredOutputLocation: "gpu-buffer" });
    if (!known) {
      made.set(rank, session);
      // Whoever comes next tries again.
      session.catch(() => made.delete(rank));
    }
    const copying = await session;
    return async (value) => (await copying.run({ x: tensorOf(value) })).y!;
  };
}

/** The ONNX file that copies x, of any sizes, to y. */
function copyGraph(rank: number): Uint8Array {
  const sizes = Array.from({ length: rank }, (_, i) => `n${i}`);
  return writeOnnx({ y: input("x", "float32", sizes) });
}

/**
 * A session of an ONNX file on an execution provider of one of onnxruntime's packages.
 *
 * @param inPlace whether it is the native runtime on a CPU, which can write results into arrays that are given to it
 */
export async function openSession(
  { InferenceSession: sessions, Tensor }: Onnxruntime,
  provider: string,
  model: Uint8Array,
  { threads = 0, fuse }: RuntimeOptions,
  inPlace = false,
): Promise<Session> {
  const tensorOf = tensorsOf(Tensor);
  const session = await sessions.create(model, {
    ...sessionOptions(provider),
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    // On a CPU rewriting graphs gains nothing that can be measured, and is more than half of the time in which a session opens.
    graphOptimizationLevel: inPlace ? "disabled" : fuse ? "all" : "basic",
    // Threads that spin after a run slow down whatever runs next, most of all other sessions. Within a run they wait for the next operation by spinning
    // as long as small ones take: a sixth of a short run's processor time went into waiting longer.
    extra: { session: { force_spinning_stop: "1", intra_op: { spin_duration_us: "50" } } },
  });
  return {
    async run(inputs, into) {
      const feeds: Record<string, OrtTensor> = {};
      for (const name of session.inputNames) {
        const value = inputs[name];
        if (value === undefined) throw new Error(`internal: no value for the input ${name}`);
        feeds[name] = tensorOf(value);
      }
      if (into && inPlace) {
        await session.run(
          feeds,
          Object.fromEntries(Object.entries(into).map(([name, value]) => [name, tensorOf(value)])),
        );
        return into;
      }
      const results = await session.run(feeds);
      const values: Record<string, Value> = {};
      for (const [name, t] of Object.entries(results)) {
        values[name] = { dtype: t.type as Value["dtype"], data: t.data as Value["data"], shape: t.dims };
      }
      for (const [name, { data }] of Object.entries(into ?? {}))
        (data as Float32Array).set(values[name]!.data as Float32Array);
      return into ?? values;
    },
    release: () => session.release(),
  };
}
