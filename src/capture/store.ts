import type { Floats } from "./hooks.ts";

/**
 * Where results are kept until the effects are computed: in memory, or on disk, where they are also checkpoints. Tensors that come
 * together (of a pack, or of a block of a streamed model) are saved as a whole, under a key.
 */
export interface Store {
  /** Whether a key's tensors are there, and whole. */
  has(key: string): Promise<boolean>;
  /** Keeps tensors, by name. */
  save(key: string, tensors: ReadonlyMap<string, Floats>): Promise<void>;
  /** A tensor of a key that there is, flat; undefined where it has none of that name. */
  read(key: string, tensor: string): Promise<Floats | undefined>;
  /** Forgets tensors that are not needed any more. */
  remove(key: string): Promise<void>;
}

/** Keeps results in memory. */
export function memoryStore(): Store {
  const kept = new Map<string, ReadonlyMap<string, Floats>>();
  return {
    has: async (key) => kept.has(key),
    save: async (key, tensors) => void kept.set(key, tensors),
    read: async (key, tensor) => kept.get(key)!.get(tensor),
    remove: async (key) => void kept.delete(key),
  };
}
