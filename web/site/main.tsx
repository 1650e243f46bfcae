/// <reference types="vite/client" />
import { render } from "preact";
import { App } from "./app.tsx";

const root = document.getElementById("page") as HTMLElement;
root.replaceChildren();
render(<App />, root);
