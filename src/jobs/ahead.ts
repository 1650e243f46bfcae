/** Something that takes a while to open, so that it is opened before it is known who needs it. */
export interface Ahead<T> {
  /** Opens one for the next that asks. */
  start(): void;
  /** The one that was started, or a new one. */
  take(): T;
}

/** Keeps what `open` makes until somebody asks for it. */
export function ahead<T>(open: () => T): Ahead<T> {
  let started: T | undefined;
  return {
    start() {
      started ??= open();
    },
    take() {
      const taken = started ?? open();
      started = undefined;
      return taken;
    },
  };
}
