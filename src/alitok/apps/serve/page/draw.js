// The tab that draws: the form, and a gallery of what was drawn, the newest first.

import { createForm } from "./form.js";

export function createDrawTab(model, { complete }) {
  createForm(model, { name: "draw", verb: "Draw", complete });
}
