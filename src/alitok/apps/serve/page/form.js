// A form of settings with its buttons, and the gallery of what they gave, as both tabs that draw have them.

import { announce, byId, make } from "./dom.js";
import { createDrawing } from "./drawing.js";
import { anySeed, createSettings } from "./settings.js";

// `name`: with which the elements' ids begin. `verb`: on the main button. `complete`: takes a finished image.
// `readFrom`: the image from which the model goes on, as `draw` takes it. `putFrom`: shows such an image again.
export function createForm(model, { name, verb, complete, readFrom = () => null, putFrom = () => {} }) {
  const buttons = {
    draw: make("button", { type: "submit", class: "main" }, verb),
    stop: make("button", { type: "button", disabled: true }, "Stop"),
  };
  const settings = createSettings(model, {
    prefix: name,
    chosen: model.classes.length === 1 ? [0] : [],
    button: make("div", { class: "actions" }, buttons.draw, buttons.stop),
  });
  const drawing = createDrawing({
    model,
    buttons,
    progress: byId(`${name}-progress`),
    gallery: byId(`${name}-gallery`),
    actions: {
      sameAgain(used, from) {
        settings.put(used);
        putFrom(from);
        announce(`These settings are in the form again. Press ${verb} for the same images.`);
        buttons.draw.focus();
      },
      vary(used, from) {
        settings.put({ ...used, seed: anySeed() });
        drawing.draw(settings.read, () => from);
      },
      complete,
    },
  });
  const form = byId(`${name}-form`);
  form.append(settings.node);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    drawing.draw(settings.read, readFrom);
  });
  return settings;
}
