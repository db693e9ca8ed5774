// The tab that completes: a picture, the line from which the model goes on, and the same settings as for drawing.

import { announce, byId, make, notice } from "./dom.js";
import { createDrawing, drawButtons } from "./drawing.js";
import { createLine } from "./line.js";
import { createPick, PictureError, squareOf } from "./pick.js";
import { anySeed, createSettings, SettingsError } from "./settings.js";

export function createCompleteTab(model, { open }) {
  const buttons = drawButtons("Complete");
  const settings = createSettings(model, {
    prefix: "complete",
    chosen: model.classes.length === 1 ? [0] : [],
    button: make("div", { class: "actions" }, buttons.draw, buttons.stop),
  });
  const form = byId("complete-form");
  form.append(settings.node);

  const problem = make("div");
  const pick = createPick({
    mostBytes: model.limits.most_upload_bytes,
    whenPicked: take,
    whenRefused: (words) => notice(problem, words),
  });
  byId("complete-pick").append(pick.node, problem);
  let canvas = null;
  let line = null;

  async function take(blob) {
    notice(problem, "");
    try {
      canvas = await squareOf(blob, model.image_size);
    } catch (wrong) {
      if (!(wrong instanceof PictureError)) throw wrong;
      return notice(problem, wrong.message);
    }
    line = createLine({ canvas, grid: model.grid });
    byId("complete-line").replaceChildren(line.node);
    announce("The picture is here. Move the line, then press Complete.");
  }

  // What is sent is the square on the screen, so a photograph of many megabytes costs a few kilobytes.
  function completion() {
    if (!line) throw new SettingsError("Choose a picture first.", pick.button);
    const rows = line.kept();
    return {
      request: { image: canvas.toDataURL("image/png").split(",")[1], rows },
      given: { canvas, height: (rows * model.image_size) / model.grid },
    };
  }

  async function takeDrawn({ blob, label, settings: used }) {
    settings.put({ ...used, classes: [label], count: 1, seed: null });
    open();
    await take(blob);
    line?.handle.focus();
  }

  const drawing = createDrawing({
    model,
    buttons,
    completion,
    progress: byId("complete-progress"),
    gallery: byId("complete-gallery"),
    actions: {
      sameAgain(used) {
        settings.put(used);
        announce("These settings are in the form again.");
        buttons.draw.focus();
      },
      vary(used) {
        settings.put({ ...used, seed: anySeed() });
        drawing.draw(settings.read);
      },
      complete: takeDrawn,
    },
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    drawing.draw(settings.read);
  });
  return { takeDrawn };
}
