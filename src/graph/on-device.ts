import { sender } from "#session";
import { UserError } from "../errors.ts";
import { keepsNumbers, type SessionOptions, type Value } from "./runtime.ts";
import { constantData, type Tensor, type TypedData } from "./tensor.ts";

/** Numbers from which on it is worth while to keep a value on a device. */
const leastSent = 4096;

/** Values that stay on a device while sessions take them. */
export interface OnDevice<K extends string = string> {
  readonly values: Readonly<Record<K, Value>>;
  /** Gives the device's memory back; the values cannot be used afterwards. */
  release(): void;
}

/**
 * Puts values where sessions take them run after run without their being sent again: large ones in float32 on a device that can keep numbers;
 * others are as they were given.
 *
 * @throws UserError if the device has no room
 */
export async function putOnDevice<K extends string>(
  values: Readonly<Record<K, Value>>,
  options: SessionOptions,
): Promise<OnDevice<K>> {
  const sent: Value[] = [];
  const release = () => {
    for (const { onDevice } of sent.splice(0)) onDevice!.dispose();
  };
  const all: Record<string, Value> = { ...values };
  try {
    for (const [name, value] of Object.entries<Value>(values)) {
      if (!keepsNumbers(options.device) || value.dtype !== "float32" || value.data.length < leastSent) continue;
      all[name] = await putValue(value, options);
      sent.push(all[name]);
    }
  } catch (error) {
    release();
    throw error;
  }
  return { values: all as Record<K, Value>, release };
}

/**
 * A float32 value on a device that can keep numbers.
 *
 * @throws UserError if there is no room for it; the runtime's error if there is no such device
 */
export async function putValue({ dtype, data, shape }: Value, { device = "cpu" }: SessionOptions): Promise<Value> {
  const send = await (await sender(device))(shape.length);
  try {
    return { dtype, data: new Float32Array(0), shape, onDevice: await send({ dtype, data, shape }) };
  } catch (error) {
    throw new UserError(
      `--device ${device}: expected room for an array of [${shape.join(", ")}] on it, got: ${said(error)}. Use --weights streamed, or --device cpu.`,
    );
  }
}

/** What the runtime says, without the place in its sources. */
function said(error: unknown): string {
  const [first = ""] = String((error as Error).message ?? error).split("\n");
  return first.replace(/^\S*onnxruntime_src\/\S+ /, "").replace(/\.$/, "");
}

/** Constants on a device, by their array and by shape. */
const constants = new WeakMap<TypedData, Map<string, Promise<Value>>>();
const collected = new FinalizationRegistry<NonNullable<Value["onDevice"]>>((onDevice) => onDevice.dispose());

/**
 * The numbers of a constant as a session's input. A device that can keep numbers gets them once, for all sessions: they stay there for as long as the
 * constant's own array is in use.
 */
export function constantValue(constant: Tensor, options: SessionOptions): Promise<Value> {
  const { dtype, shape } = constant;
  const data = constantData(constant);
  const value: Value = { dtype, data, shape: shape as readonly number[] };
  if (!keepsNumbers(options.device) || dtype !== "float32") return Promise.resolve(value);
  const shapes = constants.get(data) ?? new Map<string, Promise<Value>>();
  constants.set(data, shapes);
  const key = shape.join();
  const known = shapes.get(key);
  if (known) return known;
  const put = putValue(value, options).then(({ onDevice }) => {
    collected.register(data, onDevice!);
    return { ...value, onDevice: onDevice! };
  });
  // Whoever asked for it has the error.
  put.catch(() => shapes.delete(key));
  shapes.set(key, put);
  return put;
}
