import { createHash } from "node:crypto";

/** Sessions that stay when nobody uses them. */
const kept = 64;

/**
 * Changes how onnxruntime makes sessions while tests run. A session takes many times as long to make as to run, and tests make the same ones again
 * and again: those of equal graphs and options are one. And sessions compute with one thread where they are not told how many, since test files run
 * side by side. Commands in a process of their own have the runtime as it is.
 */
export async function forTests() {
  const { InferenceSession } = await import("onnxruntime-node").then(
    (ort) => ort.default ?? ort,
    () => ({}),
  );
  if (!InferenceSession) return;
  const create = InferenceSession.create.bind(InferenceSession);
  /** By graph and options, those used last at the end. */
  const made = new Map();
  const clear = async () => {
    for (const [key, one] of made) {
      if (made.size <= kept) return;
      if (one.users > 0) continue;
      made.delete(key);
      await (await one.session).release();
    }
  };
  InferenceSession.create = async (model, options) => {
    const all = { ...options, intraOpNumThreads: options.intraOpNumThreads || 1 };
    const key = createHash("sha1").update(model).update(JSON.stringify(all)).digest("hex");
    const one = made.get(key) ?? { session: create(model, all), users: 0 };
    made.delete(key);
    made.set(key, one);
    one.users++;
    try {
      const session = await one.session;
      return handleOf(session, () => {
        one.users--;
        return clear();
      });
    } catch (error) {
      made.delete(key);
      throw error;
    }
  };
}

/** One user's hold on a session: as the session itself, it cannot be used once it is released. */
function handleOf(session, release) {
  let released = false;
  const check = () => {
    if (released) throw new Error("the session was released before");
  };
  return {
    inputNames: session.inputNames,
    outputNames: session.outputNames,
    async run(...args) {
      check();
      return session.run(...args);
    },
    async release() {
      check();
      released = true;
      await release();
    },
  };
}
