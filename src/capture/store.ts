import type { Floats } from "./hooks.ts";

/**
 * Where results are kept until the effects are computed: in memory, or on disk, where they are also checkpoints. They come in parts (a pack, or a
 * block of a streamed model), each saved as a whole.
 */
export interface Store {
  /** Whether a part is there, and whole. */
  has(part: string): Promise<boolean>;
  /** Keeps the tensors of a part, by name. */
  save(part: string, tensors: ReadonlyMap<string, Floats>): Promise<void>;
  /** A tensor of a part that there is, flat; undefined where it has none of that name. */
  read(part: string, tensor: string): Promise<Floats | undefined>;
  /** Forgets a part that is not needed any more. */
  remove(part: string): Promise<void>;
}

/** Keeps results in memory. */
export function memoryStore(): Store {
  const parts = new Map<string, ReadonlyMap<string, Floats>>();
  return {
    has: async (part) => parts.has(part),
    save: async (part, tensors) => void parts.set(part, tensors),
    read: async (part, tensor) => parts.get(part)!.get(tensor),
    remove: async (part) => void parts.delete(part),
  };
}
