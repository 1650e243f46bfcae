import type { KeptSessions, Session } from "./runtime.ts";

interface Kept {
  readonly file: Uint8Array;
  readonly session: Promise<Session>;
  users: number;
}

/**
 * Keeps sessions, of those that nobody uses at most so many: the longest unused one goes first.
 *
 * @param most sessions; each keeps the memory that its largest run took
 */
export function keptSessions(most: number): KeptSessions {
  let kept: Kept[] = [];
  const end = async (gone: readonly Kept[]) => {
    kept = kept.filter((one) => !gone.includes(one));
    // One that could not be opened has nothing to release; whoever asked for it has the error.
    for (const { session } of gone) await session.then((open) => open.release()).catch(() => {});
  };
  const idle = () => kept.filter(({ users }) => users === 0);
  return {
    async lend(file, open) {
      const known = kept.find((one) => sameBytes(one.file, file));
      const one = known ?? { file, session: open(), users: 0 };
      // The last used ones are at the end.
      kept = [...kept.filter((other) => other !== one), one];
      one.users++;
      try {
        const session = await one.session;
        let isLent = true;
        return {
          run: (inputs, into) => session.run(inputs, into),
          async release() {
            if (isLent) one.users--;
            isLent = false;
            const unused = idle();
            await end(unused.slice(0, Math.max(0, unused.length - most)));
          },
        };
      } catch (error) {
        kept = kept.filter((other) => other !== one);
        throw error;
      }
    },
    release: () => end(idle()),
  };
}

/** Whether two arrays hold the same bytes. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
