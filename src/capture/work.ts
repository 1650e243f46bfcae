/** What a step of a job takes, counted from shapes alone. */
export interface Work {
  /** Floating-point operations of passes through a model, padding and what is computed again included. */
  readonly passes: number;
  /** Floating-point operations of matrix products with dictionaries. */
  readonly codes: number;
  /** Bytes of streamed weights that are read. */
  readonly read: number;
  /** Numbers of dictionaries that are read. */
  readonly dictionaries: number;
  /** Numbers that are multiplied one by one. */
  readonly products: number;
  /** Rows of effects. */
  readonly rows: number;
  /** Sessions that are opened. */
  readonly sessions: number;
  /** Bytes of memory at the peak, beside the program and held weights. */
  readonly memory: number;
}

/** Work of which only some kinds are named: of the others there is none. */
export const workOf = (some: Partial<Work>): Work => ({
  passes: 0,
  codes: 0,
  read: 0,
  dictionaries: 0,
  products: 0,
  rows: 0,
  sessions: 0,
  memory: 0,
  ...some,
});

/**
 * Steps one after another: their work adds up, their memory does not.
 *
 * @param kept bytes that are in memory besides, all the while
 */
export function inTurn(steps: readonly Work[], kept = 0): Work {
  const sum = (kind: keyof Work) => steps.reduce((total, step) => total + step[kind], 0);
  return {
    passes: sum("passes"),
    codes: sum("codes"),
    read: sum("read"),
    dictionaries: sum("dictionaries"),
    products: sum("products"),
    rows: sum("rows"),
    sessions: sum("sessions"),
    memory: kept + Math.max(0, ...steps.map(({ memory }) => memory)),
  };
}
