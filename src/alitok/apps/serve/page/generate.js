// The Generate tab: the form, and a gallery of generated images, newest first.

import { createForm } from "./form.js";

export function createGenerateTab(model, { complete }) {
  createForm(model, { name: "generate", verb: "Generate", complete });
}
