// The tab that completes: an image, the line from which the model goes on, and the same settings as for drawing.

import { announce, byId, make, notice } from "./dom.js";
import { createForm } from "./form.js";
import { createLine } from "./line.js";
import { createPick, ImageError, squareOf } from "./pick.js";
import { SettingsError } from "./settings.js";

export function createCompleteTab(model, { open }) {
  const settings = createForm(model, { name: "complete", verb: "Complete", complete: takeDrawn, readFrom, putFrom: show });
  const problem = make("div");
  const pick = createPick({
    mostBytes: model.limits.most_upload_bytes,
    whenPicked: take,
    whenRefused: (words) => notice(problem, words),
  });
  byId("complete-pick").append(pick.node, problem);
  let canvas = null;
  let line = null;

  function show(from) {
    canvas = from.canvas;
    line = createLine({ canvas, grid: model.grid, kept: from.rows });
    byId("complete-line").replaceChildren(line.node);
  }

  async function take(blob) {
    notice(problem, "");
    try {
      show({ canvas: await squareOf(blob, model.image_size), rows: model.grid >> 1 });
    } catch (wrong) {
      if (!(wrong instanceof ImageError)) throw wrong;
      return notice(problem, wrong.message);
    }
    announce("The image is here. Move the line, then press Complete.");
  }

  // What is sent is the square on the screen, so a photograph of many megabytes costs a few kilobytes.
  function readFrom() {
    if (!line) throw new SettingsError("Choose an image first.", pick.button);
    const rows = line.kept();
    return {
      request: { image: canvas.toDataURL("image/png").split(",")[1], rows },
      canvas,
      rows,
      height: (rows * model.image_size) / model.grid,
    };
  }

  async function takeDrawn({ blob, label, settings: used }) {
    settings.put({ ...used, classes: [label], count: 1, seed: null });
    open();
    await take(blob);
    line?.handle.focus();
  }

  return { takeDrawn };
}
