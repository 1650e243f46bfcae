import { oneThread } from "./one-thread.mjs";

await oneThread();
