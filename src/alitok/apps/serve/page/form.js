// The settings form, its buttons and its gallery, shared by the Generate and Complete tabs.

import { announce, byId, make } from "./dom.js";
import { createJob } from "./job.js";
import { anySeed, createSettings } from "./settings.js";

// `name`: prefix of the elements' ids. `verb`: text of the main button. `complete`: receives a finished image.
// `readFrom`: the image to complete, as in `createJob`. `putFrom`: shows such an image again.
export function createForm(model, { name, verb, complete, readFrom = () => null, putFrom = () => {} }) {
  const buttons = {
    start: make("button", { type: "submit", class: "main" }, verb),
    stop: make("button", { type: "button", disabled: true }, "Stop"),
  };
  const settings = createSettings(model, {
    prefix: name,
    chosen: model.classes.length === 1 ? [0] : [],
    button: make("div", { class: "actions" }, buttons.start, buttons.stop),
  });
  const job = createJob({
    model,
    buttons,
    progress: byId(`${name}-progress`),
    gallery: byId(`${name}-gallery`),
    actions: {
      sameAgain(used, from) {
        settings.put(used);
        putFrom(from);
        announce(`Settings restored. Press ${verb} for the same images.`);
        buttons.start.focus();
      },
      vary(used, from) {
        settings.put({ ...used, seed: anySeed() });
        job.start(settings.read, () => from);
      },
      complete,
    },
  });
  const form = byId(`${name}-form`);
  form.append(settings.node);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    job.start(settings.read, readFrom);
  });
  return settings;
}
