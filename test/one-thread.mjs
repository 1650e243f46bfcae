/**
 * Has sessions of onnxruntime compute with one thread each where they are not told how many: test files run side by side, and threads that wait for
 * a processor spin. Commands in a process of their own keep the threads that users have.
 */
export async function oneThread() {
  const { InferenceSession } = await import("onnxruntime-node").then(
    (ort) => ort.default ?? ort,
    () => ({}),
  );
  if (!InferenceSession) return;
  const create = InferenceSession.create.bind(InferenceSession);
  InferenceSession.create = (model, options) =>
    create(model, { ...options, intraOpNumThreads: options.intraOpNumThreads || 1 });
}
