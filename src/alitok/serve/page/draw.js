// The tab that draws: the form, and a gallery of what was drawn, the newest first.

import { announce, byId, make } from "./dom.js";
import { createDrawing, drawButtons } from "./drawing.js";
import { anySeed, createSettings } from "./settings.js";

export function createDrawTab(model, { complete }) {
  const buttons = drawButtons("Draw");
  const settings = createSettings(model, {
    prefix: "draw",
    chosen: model.classes.length === 1 ? [0] : [],
    button: make("div", { class: "actions" }, buttons.draw, buttons.stop),
  });
  const form = byId("draw-form");
  form.append(settings.node);

  const drawing = createDrawing({
    model,
    buttons,
    progress: byId("draw-progress"),
    gallery: byId("draw-gallery"),
    actions: {
      sameAgain(used) {
        settings.put(used);
        announce("These settings are in the form again. Press Draw for the same pictures.");
        buttons.draw.focus();
      },
      vary(used) {
        settings.put({ ...used, seed: anySeed() });
        drawing.draw(settings.read);
      },
      complete,
    },
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    drawing.draw(settings.read);
  });
}
