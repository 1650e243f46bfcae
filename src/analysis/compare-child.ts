import { problemMessage } from "../jobs/messages.ts";
import { postingReporter } from "../progress.ts";
import { type MethodRequest, measureMethod } from "./compare-measure.ts";
import type { ChildMessage, ParentMessage } from "./compare-process.ts";

/** Entry of the process in which one method of a comparison runs, alone with its model. What it finds goes into files; it tells how far it is. */
const tell = (message: ChildMessage) => process.send?.(message);
let stopping = false;

// Ctrl-C on a terminal goes to the whole group of processes; here it is the parent that says when to stop.
process.on("SIGINT", () => {});
process.on("disconnect", () => process.exit(130));

process.on("message", async (message: ParentMessage) => {
  if (message.type === "stop") {
    stopping = true;
    return;
  }
  const reporter = postingReporter(tell, () => stopping);
  const last = await answer(message.request, reporter);
  process.send?.(last, () => process.exit(0));
});

async function answer(request: MethodRequest, reporter: ReturnType<typeof postingReporter>): Promise<ChildMessage> {
  try {
    await measureMethod(request, reporter, (work) => tell({ type: "work", work }));
    return { type: "done", result: null };
  } catch (error) {
    return problemMessage(error);
  }
}
